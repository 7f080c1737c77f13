"""Locate the files of a corpus: in data.path, in an archive to unpack, or by download."""

from __future__ import annotations

import fnmatch
import logging
import os
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tbptt.data.config import DataConfig
from tbptt.data.corpora import StandardLibrary, corpus_named
from tbptt.data.corpus import SPLITS, Archive, Corpus
from tbptt.data.documents.config import HubConfig
from tbptt.data.documents.hub import download_from_hub
from tbptt.data.download import download
from tbptt.data.reading import readable
from tbptt.data.shared import make_folder, own_path, possible_paths
from tbptt.data.sources import Sources
from tbptt.errors import UserError

log = logging.getLogger(__name__)
HUB_REPOSITORY = "Salesforce/wikitext"
UNPACKED = ".unpacked"  # in a folder that was unpacked: the stamp of its archive


def check_corpus(config: DataConfig) -> Corpus:
    """The corpus that the settings name. UserError for invalid settings, checked without reading the corpus."""
    corpus = corpus_named(config.name)
    config.check()
    corpus.check(config)
    check_path(corpus, config)
    return corpus


def check_path(corpus: Corpus, config: DataConfig) -> None:
    """UserError if data.path is set but contains neither the corpus's files, nor its archive, nor token files."""
    if config.path is None:
        return
    folder = Path(config.path).expanduser()
    archive = corpus.archive and folder / corpus.archive.name
    with readable(f"data.path={config.path}"):
        known = (folder / "meta.json").is_file() or (archive and archive.is_file()) or corpus.find(folder) is not None
    if not known:
        raise UserError(f"data.path={config.path} must be a folder with {corpus.expected()}, but files are missing")


def find_sources(corpus: Corpus, config: DataConfig) -> Sources | None:
    """The sources of every split where they can be read now; None if they must be downloaded or unpacked first."""
    if isinstance(corpus, StandardLibrary):
        return corpus.find(corpus.home)
    if config.path is None:
        return _find_first(corpus, possible_paths(_fetched(config) / "downloaded"))
    check_path(corpus, config)
    folder = Path(config.path).expanduser()
    found = corpus.find(folder)
    if found is None and corpus.archive:
        stamp = _stamp(folder / corpus.archive.name)
        unpacked = [path for path in possible_paths(_fetched(config) / "unpacked") if _was_unpacked(path, stamp)]
        found = _find_first(corpus, unpacked)
    return found


def acquire(corpus: Corpus, config: DataConfig) -> Sources:
    """The sources of every split, downloaded and unpacked if necessary. UserError if they cannot be obtained."""
    found = find_sources(corpus, config)
    if found is not None:
        return found
    make_folder(_fetched(config))
    if isinstance(config, HubConfig):
        folder = own_path(_fetched(config) / "downloaded")
        download_from_hub(config, folder)
        found = corpus.find(folder)
        if found is None:
            raise UserError(f"data.repo={config.repo} has no documents in {config.train_split}")
        return found
    assert corpus.archive is not None  # otherwise Corpus.check requires data.path, with the corpus's files
    if config.path is not None:
        archive = Path(config.path).expanduser() / corpus.archive.name
        found = corpus.find(_unpack(archive, corpus, own_path(_fetched(config) / "unpacked")))
        if found is None:
            raise UserError(f"the archive in data.path={config.path} does not contain {corpus.expected()}")
        return found
    folder = own_path(_fetched(config) / "downloaded")
    _download(corpus, corpus.archive, config.url, folder)
    found = corpus.find(folder)
    if found is None:
        raise UserError(
            f"{corpus.archive.name} from {config.url or corpus.archive.url} does not contain {corpus.expected()}"
        )
    return found


def _fetched(config: DataConfig) -> Path:
    """The folder in the cache for what was downloaded and unpacked."""
    return Path(config.cache).expanduser() / "sources" / config.source_name()


def _find_first(corpus: Corpus, folders: Iterable[Path]) -> Sources | None:
    return next((found for folder in folders if folder.is_dir() and (found := corpus.find(folder))), None)


def _download(corpus: Corpus, archive: Archive, url: str | None, folder: Path) -> None:
    """Download the corpus into `folder`: from the Hugging Face hub if it is hosted there, else as an archive."""
    if corpus.hub and (url is None or not url.endswith(archive.name)):
        _download_from_hub(corpus, url, folder)
        return
    if url is not None and not url.endswith(archive.name):
        url = f"{url.rstrip('/')}/{archive.name}"  # a mirror's folder that contains the archive
    local = folder.with_name(archive.name)
    if not local.is_file():
        download(url or archive.url, local, archive.size, archive.sha256)
    _unpack(local, corpus, folder)


def _unpack(archive: Path, corpus: Corpus, folder: Path) -> Path:
    """Unpack the corpus's files from a zip or tar archive into `folder`, which is created atomically."""
    log.info("Unpacking %s", archive)
    building = own_path(folder.with_name(f"{folder.name}.building"))
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    try:
        if archive.suffix == ".zip":
            with zipfile.ZipFile(archive) as packed:
                for name in filter(lambda name: _is_corpus_file(name, corpus), packed.namelist()):
                    _copy(packed.open(name), _member_path(building, name))
        else:
            with tarfile.open(archive) as packed_tar:
                for member in packed_tar:
                    if member.isfile() and _is_corpus_file(member.name, corpus):
                        _copy(packed_tar.extractfile(member), _member_path(building, member.name))
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError) as error:
        shutil.rmtree(building)
        raise UserError(
            f"{archive} cannot be unpacked ({error}): if it is damaged, delete it to download it again"
        ) from error
    (building / UNPACKED).write_text(_stamp(archive), encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    os.rename(building, folder)
    return folder


def _stamp(archive: Path) -> str:
    """Path, size and modification time: they reveal another archive."""
    return f"{archive.resolve()} {archive.stat().st_size} {archive.stat().st_mtime_ns}"


def _was_unpacked(folder: Path, stamp: str) -> bool:
    """Whether the folder holds what was unpacked from the archive with this stamp."""
    marker = folder / UNPACKED
    return marker.is_file() and marker.read_text(encoding="utf-8") == stamp


def _is_corpus_file(name: str, corpus: Corpus) -> bool:
    return any(fnmatch.fnmatch(f"/{name}", f"*/{pattern}") for pattern in corpus.files.values())


def _member_path(folder: Path, name: str) -> Path:
    """A path inside `folder` for any member name: at most its last two components are kept."""
    path = folder.joinpath(*[part for part in Path(name).parts if part not in ("/", "..")][-2:])
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _copy(source: Any, target: Path) -> None:
    with source, open(target, "wb") as file:
        shutil.copyfileobj(source, file, 1 << 20)


def _download_from_hub(corpus: Corpus, endpoint: str | None, folder: Path) -> None:
    """Download WikiText from the Hugging Face hub, whose parquet rows are the lines of the original text files."""
    try:
        import pyarrow.parquet as parquet
        from huggingface_hub import hf_hub_download
    except ImportError:
        raise UserError(
            f"{corpus.title} is downloaded from the Hugging Face hub: pip install -e '.[download]' first, "
            f"or give data.path=FOLDER with {corpus.expected()}"
        ) from None
    log.info("Downloading %s from the Hugging Face hub", corpus.title)
    building = own_path(folder.with_name(f"{folder.name}.building"))
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    hub = own_path(folder.with_name("hub"))
    for split in SPLITS:
        with open(building / corpus.files[split], "w", encoding="utf-8", newline="\n") as text:
            for name in corpus.hub[split]:
                try:
                    local = hf_hub_download(HUB_REPOSITORY, name, repo_type="dataset", endpoint=endpoint, cache_dir=hub)
                except Exception as error:
                    reason = str(error).strip().split("\n")[0]
                    raise UserError(
                        f"{name} of {HUB_REPOSITORY} cannot be downloaded from the hub ({reason}): set data.url to "
                        "another endpoint or a mirror of the archive, or data.path to a folder that contains the files"
                    ) from error
                for batch in parquet.ParquetFile(local).iter_batches(columns=["text"]):
                    for line in batch.column(0).to_pylist():
                        text.write(line if line.endswith("\n") else f"{line}\n")  # empty lines have no newline
    shutil.rmtree(folder, ignore_errors=True)
    os.rename(building, folder)

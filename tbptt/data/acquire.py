"""Locate the files of a corpus: in data.path, in an archive to unpack, or by download."""

from __future__ import annotations

import fnmatch
import logging
import os
import shutil
import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import Any

from tbptt.data.config import DataConfig
from tbptt.data.corpora import SPLITS, Archive, Corpus, StandardLibrary, corpus_named
from tbptt.data.download import download
from tbptt.data.sources import Sources
from tbptt.errors import UserError

log = logging.getLogger(__name__)
HUB_REPOSITORY = "Salesforce/wikitext"


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
    if not (folder / "meta.json").is_file() and not (archive and archive.is_file()) and corpus.find(folder) is None:
        raise UserError(f"data.path={config.path} must be a folder with {corpus.expected()}, but files are missing")


def acquire(corpus: Corpus, config: DataConfig) -> Sources:
    """The sources of every split, downloaded and unpacked if necessary. UserError if they cannot be obtained."""
    cache = Path(config.cache).expanduser() / "sources" / config.name
    if isinstance(corpus, StandardLibrary):
        return corpus.find(corpus.home)
    if config.path is not None:
        check_path(corpus, config)
        folder = Path(config.path).expanduser()
        found = corpus.find(folder)
        if found is None and corpus.archive:
            found = corpus.find(_unpack(folder / corpus.archive.name, corpus, cache / "unpacked"))
        if found is None:
            raise UserError(f"the archive in data.path={config.path} does not contain {corpus.expected()}")
        return found
    assert corpus.archive is not None  # otherwise Corpus.check requires data.path
    folder = cache / "downloaded"
    found = corpus.find(folder) if folder.exists() else None
    if found is None:
        _download(corpus, corpus.archive, config.url, folder)
        found = corpus.find(folder)
    if found is None:
        raise UserError(
            f"{corpus.archive.name} from {config.url or corpus.archive.url} does not contain {corpus.expected()}"
        )
    return found


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
    marker = folder / ".unpacked"
    stamp = f"{archive} {archive.stat().st_size} {archive.stat().st_mtime_ns}"
    if marker.is_file() and marker.read_text() == stamp:
        return folder
    log.info("Unpacking %s", archive)
    building = folder.with_name(f"{folder.name}.building")
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
    (building / ".unpacked").write_text(stamp)
    shutil.rmtree(folder, ignore_errors=True)
    os.rename(building, folder)
    return folder


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
            f"{corpus.title} is downloaded from the Hugging Face hub: pip install 'tbptt[download]' first, "
            f"or give data.path=FOLDER with {corpus.expected()}"
        ) from None
    log.info("Downloading %s from the Hugging Face hub", corpus.title)
    building = folder.with_name(f"{folder.name}.building")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    for split in SPLITS:
        with open(building / corpus.files[split], "w", encoding="utf-8", newline="\n") as text:
            for name in corpus.hub[split]:
                try:
                    local = hf_hub_download(
                        HUB_REPOSITORY, name, repo_type="dataset", endpoint=endpoint, cache_dir=folder.with_name("hub")
                    )
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

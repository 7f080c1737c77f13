"""Preparation of corpora as token files, which are cached, memory-mapped, and rebuilt when the source changes.

A prepared corpus is a folder (prepared.py), which is renamed to its final name when it is complete. It can be moved to
another machine and used there as data.path.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from tbptt.data import sources
from tbptt.data.acquire import acquire, find_sources
from tbptt.data.config import DataConfig, Level
from tbptt.data.corpora import corpus_named
from tbptt.data.corpus import SPLITS, Corpus
from tbptt.data.prepared import FORMAT, PreparedCorpus, open_prepared
from tbptt.data.reading import has_mark, readable
from tbptt.data.shared import make_folder, own_path, possible_paths, rights_reported
from tbptt.data.sources import Sources
from tbptt.data.writing import write_splits
from tbptt.errors import UserError, full_disk_reported

log = logging.getLogger(__name__)


def open_corpus(config: DataConfig) -> PreparedCorpus:
    """Open the corpus that `config` names; download and prepare it first if necessary.

    UserError if its files cannot be obtained or read, or differ from the published ones.
    """
    prepared = _open_data_path(config) or _open_cached(config)
    for split, counts in prepared.meta["splits"].items():
        if counts["unknown"]:
            share = counts["unknown"] / counts["tokens"]
            log.info(
                "%s: %s of %s tokens are unknown (%.2f%%)", split, counts["unknown"], counts["tokens"], 100 * share
            )
    if config.verify:
        prepared.verify()
        log.info("%s: every token file is as it was written", prepared.folder)
    return prepared


def _open_data_path(config: DataConfig) -> PreparedCorpus | None:
    """The prepared corpus in data.path, or None if data.path is not a folder of token files."""
    folder = Path(config.path or "").expanduser()
    with readable(f"data.path={config.path}"):
        if config.path is None or not (folder / "meta.json").is_file():
            return None
    try:
        prepared = open_prepared(folder)
    except PermissionError:
        raise  # it is not damaged
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"data.path={config.path} has damaged token files ({error}): prepare them again") from error
    found, wanted = prepared.meta["settings"], config.settings()
    keys = {**wanted, **found}
    if differing := [f"{k} is {found.get(k)}, not {wanted.get(k)}" for k in keys if found.get(k) != wanted.get(k)]:
        raise UserError(f"data.path={config.path} was prepared with other settings: {'; '.join(differing)}")
    return prepared


def is_prepared(config: DataConfig) -> bool:
    """Whether the cache has token files of these settings, up to date or not."""
    return any(path.is_dir() for path in possible_paths(_folder(config)))


def _open_cached(config: DataConfig) -> PreparedCorpus:
    """The corpus from the cache; it is prepared first if it is missing or its source has changed."""
    corpus, folder = corpus_named(config.name), _folder(config)
    with rights_reported(config), full_disk_reported(folder.parent, "data.cache"):
        # Without a lock, and writing nothing: the cache may be another user's, or read-only.
        if prepared := _find_current(config, folder, find_sources(corpus, config), log.debug):
            return prepared
        make_folder(folder.parent)
        with _one_process_at_a_time(own_path(folder.parent / f"{config.name}.lock")):
            found = acquire(corpus, config)
            prepared = _find_current(config, folder, found, log.warning)
            return prepared or open_prepared(_prepare(corpus, config, found, own_path(folder)))


def _find_current(
    config: DataConfig, folder: Path, found: Sources | None, report: Callable[..., None]
) -> PreparedCorpus | None:
    """The prepared corpus of these sources, or None. `found` None: they have to be fetched.

    `report` is called with a message if a prepared corpus is damaged.
    """
    for path in possible_paths(folder):
        try:
            if path.is_dir() and _is_current(prepared := open_prepared(path), config, found):
                return prepared
        except PermissionError:
            continue  # another user's, who keeps it to themselves
        except (OSError, ValueError, KeyError) as error:
            report("%s is damaged (%s): preparing it again", path, error)
    return None


@contextmanager
def _one_process_at_a_time(path: Path) -> Iterator[None]:
    """One process prepares a corpus, the others wait, and say so."""
    lock = FileLock(path)
    try:
        lock.acquire(timeout=1)
    except Timeout:
        log.info("Waiting for another process, which is preparing this corpus (%s)", path)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _folder(config: DataConfig) -> Path:
    """The cache folder of a corpus, named after a hash of the settings it depends on."""
    source = str(Path(config.path).expanduser().resolve()) if config.path else ""
    key = json.dumps([FORMAT, source, config.url, config.settings()], sort_keys=True)
    digest = hashlib.sha256(key.encode()).hexdigest()[:12]
    return Path(config.cache).expanduser() / f"{config.name}-{config.level.name}-{digest}"


def _is_current(prepared: PreparedCorpus, config: DataConfig, found: Sources | None) -> bool:
    """Whether the sources are unchanged: same paths, sizes and times, or else the same content.

    Downloaded sources that were deleted are unchanged. Earlier versions read byte order marks as text.
    """
    if found is None:
        return config.path is None
    recorded = prepared.meta["sources"]
    if config.level is not Level.byte and not prepared.meta.get("without_marks") and _have_marks(config, found):
        return False
    touched = {s: parts for s, parts in found.items() if recorded[s]["files"] != [part.stat() for part in parts]}
    if touched:
        log.info("Comparing the content of files that have another name, size or time than when they were prepared")
    return all(recorded[split]["sha256"] == sources.sha256(parts) for split, parts in touched.items())


def _have_marks(config: DataConfig, found: Sources) -> bool:
    """Whether a source, or the given vocabulary, begins with a byte order mark."""
    paths = {part.path for parts in found.values() for part in parts}
    return any(map(has_mark, paths | ({Path(config.vocabulary).expanduser()} if config.vocabulary else set())))


def _prepare(corpus: Corpus, config: DataConfig, found: Sources, folder: Path) -> Path:
    """Write a prepared corpus to `folder`, which is returned; an interrupted preparation of the same is resumed."""
    log.info("Preparing data=%s (%s level) into %s", config.name, config.level.name, folder)
    building = own_path(folder.with_name(f"{folder.name}.building"))
    # Stat before reading: if a source changes meanwhile, the corpus is prepared again next time.
    stats = {split: [part.stat() for part in parts] for split, parts in found.items()}
    plan = json.dumps([FORMAT, config.settings(), stats], sort_keys=True)
    if not (building / "plan.json").exists() or (building / "plan.json").read_text(encoding="utf-8") != plan:
        shutil.rmtree(building, ignore_errors=True)  # of other sources or settings
        building.mkdir()
        (building / "plan.json").write_text(plan, encoding="utf-8")
    try:
        vocabulary, splits = write_splits(corpus, config, found, building)
        corpus.check_counts(config, splits, len(vocabulary))
    except UserError:
        shutil.rmtree(building)
        raise
    (building / "vocabulary.json").write_text(vocabulary.to_json(), encoding="utf-8")
    digests = {split: sources.sha256(parts) for split, parts in found.items()}
    meta = {
        "format": FORMAT,
        "without_marks": True,
        "title": corpus.title,
        "home": corpus.archive and corpus.archive.url,
        "licence": corpus.licence,
        "settings": config.settings(),
        "dtype": vocabulary.dtype.str,
        "vocab_size": len(vocabulary),
        "vocabulary_sha256": vocabulary.sha256,
        "splits": splits,
        "sources": {split: {"files": stats[split], "sha256": digests[split]} for split in SPLITS},
    }
    (building / "plan.json").unlink()
    shutil.rmtree(building / "parts", ignore_errors=True)
    (building / "meta.json").write_text(json.dumps(meta, indent=1), encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    os.rename(building, folder)
    return folder

"""Corpus files -> token files: made once, memory-mapped ever after, made anew when the source changes.

A prepared corpus is a folder: `train.bin valid.bin test.bin` (raw little-endian ids), `vocabulary.json`, `meta.json`.
It appears under its name only when it is whole.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from tbptt.data.config import DataConfig, Level
from tbptt.data.corpora import SPLITS, Files, corpus_named
from tbptt.data.vocabulary import UNK, Vocabulary, byte_vocabulary, count_vocabulary, pieces
from tbptt.errors import UserError

log = logging.getLogger(__name__)
FORMAT = 1


@dataclass
class PreparedCorpus:
    """Token streams by split (memory-mapped), their vocabulary, and `meta.json`: counts and origin."""

    splits: dict[str, np.ndarray]
    vocabulary: Vocabulary
    meta: dict[str, Any]

    def identity(self) -> dict[str, Any]:
        """What must be equal for a checkpoint to continue on this corpus."""
        return {
            "name": self.meta["corpus"],
            "level": self.meta["level"],
            "vocab_size": len(self.vocabulary),
            "vocabulary_sha256": self.meta["vocabulary_sha256"],
            "train_sha256": self.meta["sources"]["train"]["sha256"],
        }


def open_corpus(config: DataConfig) -> PreparedCorpus:
    """The corpus `config` names, prepared first if need be. UserError if its files are not there or not readable."""
    corpus = corpus_named(config.name)
    files = corpus.files(config)
    folder = _folder(config)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):  # several processes of one job prepare once
        if folder.exists():
            try:
                prepared = _open(folder)
                if _is_current(prepared.meta["sources"], files):
                    return prepared
            except (OSError, ValueError, KeyError) as error:
                log.warning("%s is damaged (%s): preparing it anew", folder, error)
        _prepare(config, files, folder)
    return _open(folder)


def _open(folder: Path) -> PreparedCorpus:
    """Map a prepared corpus. OSError, ValueError or KeyError if it is not as it was written."""
    meta = json.loads((folder / "meta.json").read_text())
    vocabulary = Vocabulary.from_file(folder / "vocabulary.json")
    if vocabulary.sha256 != meta["vocabulary_sha256"]:
        raise ValueError("vocabulary.json is not the one that was written")
    dtype = np.dtype(meta["dtype"])
    splits: dict[str, np.ndarray] = {}
    for split in SPLITS:
        path, counts = folder / f"{split}.bin", meta["splits"][split]
        size, expected = path.stat().st_size, counts["tokens"] * dtype.itemsize
        if size != expected:
            raise ValueError(f"{path.name} has {size} bytes instead of {expected}")
        splits[split] = np.memmap(path, dtype=dtype, mode="r")
        if counts["unknown"]:
            log.info("%s: %d of %d tokens are unknown words", split, counts["unknown"], counts["tokens"])
    return PreparedCorpus(splits, vocabulary, meta)


def _folder(config: DataConfig) -> Path:
    where = str(Path(config.path).expanduser().resolve()) if config.path else ""
    key = hashlib.sha256(json.dumps([FORMAT, config.name, where, config.level.name]).encode()).hexdigest()[:12]
    return Path(config.cache).expanduser() / f"{config.name}-{config.level.name}-{key}"


def _stat(paths: list[Path]) -> list[list]:
    return [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in paths]


def _sha256(paths: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _is_current(sources: dict[str, Any], files: Files) -> bool:
    """Whether token files come from these sources: same names, sizes and times, or else the same content."""
    return all(
        sources[split]["files"] == _stat(paths) or sources[split]["sha256"] == _sha256(paths)
        for split, paths in files.items()
    )


def _prepare(config: DataConfig, files: Files, folder: Path) -> None:
    log.info("Preparing data=%s (%s level) into %s", config.name, config.level.name, folder)
    building = folder.with_name(f"{folder.name}.building")
    shutil.rmtree(building, ignore_errors=True)  # what a killed run left
    building.mkdir()
    try:
        _write_corpus(config, files, building)
    except BaseException:
        shutil.rmtree(building)
        raise
    shutil.rmtree(folder, ignore_errors=True)
    os.rename(building, folder)


def _write_corpus(config: DataConfig, files: Files, folder: Path) -> None:
    # The stat is taken before reading: a source that changes meanwhile is prepared again next time.
    sources = {split: {"files": _stat(paths), "sha256": _sha256(paths)} for split, paths in files.items()}
    vocabulary = byte_vocabulary() if config.level is Level.byte else count_vocabulary(files["train"], config.level)
    splits = {split: _write_tokens(folder / f"{split}.bin", files[split], vocabulary) for split in SPLITS}
    (folder / "vocabulary.json").write_text(vocabulary.to_json(), encoding="utf-8")
    meta = {
        "format": FORMAT,
        "corpus": config.name,
        "level": config.level.name,
        "dtype": vocabulary.dtype.str,
        "vocab_size": len(vocabulary),
        "vocabulary_sha256": vocabulary.sha256,
        "splits": splits,
        "sources": sources,
    }
    (folder / "meta.json").write_text(json.dumps(meta, indent=1))


def _write_tokens(target: Path, paths: list[Path], vocabulary: Vocabulary) -> dict[str, int]:
    """Write one split and return its counts. UserError where unknown words meet a vocabulary without `<unk>`."""
    tokens, unknown = 0, Counter[str]()
    with open(target, "wb") as file:
        for path in paths:
            if vocabulary.level is Level.byte:
                tokens += file.write(path.read_bytes())
                continue
            for chunk in pieces(path, vocabulary.level):
                ids, missed = vocabulary.encode(chunk)
                tokens, unknown = tokens + len(ids), unknown + missed
                file.write(ids.tobytes())
    if unknown and UNK not in vocabulary.ids:
        some = ", ".join(repr(symbol) for symbol, _ in unknown.most_common(3))
        mend = f"put {UNK} into the training text, or " if vocabulary.level is Level.word else ""
        raise UserError(
            f"{paths[0]} has {unknown.total()} tokens ({len(unknown)} types, such as {some}) that train lacks, and "
            f"train has no {UNK} to stand for them: {mend}use data.level=byte"
        )
    if tokens < 2:
        raise UserError(f"{paths[0]} has {tokens} tokens: a split needs at least 2, one to read and one to predict")
    return {"tokens": tokens, "unknown": unknown.total(), "source_bytes": sum(path.stat().st_size for path in paths)}

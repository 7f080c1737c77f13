"""Corpora made of documents: the files of each split in a folder, and how they are read."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from pathlib import Path

from tbptt.data.config import DataConfig, Level
from tbptt.data.corpus import SPLITS, Corpus
from tbptt.data.documents.config import DocumentsConfig, HubConfig, schema_of
from tbptt.data.documents.json_lines import json_chunks
from tbptt.data.documents.pieces import Chunk
from tbptt.data.documents.tables import row_chunks
from tbptt.data.documents.texts import article_chunks, text_chunks
from tbptt.data.sources import Source, Sources
from tbptt.errors import UserError

log = logging.getLogger(__name__)

JSON = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".json.gz", ".json.zst")
FORMATS = (*JSON, ".parquet", ".txt")
UNREAD = (".arrow", ".bz2", ".csv", ".gz", ".json", ".tsv", ".xz", ".zip", ".zst")  # of documents elsewhere
NAMES = {"train": ("train",), "valid": ("valid", "validation"), "test": ("test",)}


@dataclass(frozen=True)
class DocumentFiles(Corpus):
    """A user's own documents: a file, files or a folder for each split; only train, or no splits at all, will do."""

    def check(self, config: DataConfig) -> None:
        if not isinstance(config, schema_of(config.name)):
            raise UserError(f"data.name={config.name} cannot be set: use data={config.name}")
        super().check(config)

    def expected(self) -> str:
        return f"train, valid and test: folders, or files {', '.join(f'train{end}' for end in FORMATS)}"

    def find(self, folder: Path) -> Sources | None:
        """The files of each split; no files: a share of train. UserError if one split is there in two ways."""
        if folder.is_file():
            found = {"train": [folder] if _format(folder) else []}
        elif not any((found := {split: _split_files(folder, names) for split, names in NAMES.items()}).values()):
            found = {"train": _undivided_files(folder)}
        if not found["train"]:
            return None
        return {split: [Source(path) for path in found.get(split, [])] for split in SPLITS}


@dataclass(frozen=True)
class HubDataset(DocumentFiles):
    """A data set of the Hugging Face hub, or its files in data.path."""

    def check(self, config: DataConfig) -> None:
        if config.url is not None:
            raise UserError(f"data={config.name} takes no data.url: the variable HF_ENDPOINT names another hub")
        super().check(config)
        if config.path is None and isinstance(config, HubConfig) and not config.repo:
            raise UserError(f"data={config.name} needs data.repo=OWNER/NAME, a data set of the Hugging Face hub")

    def can_download(self) -> bool:
        return True


def _split_files(folder: Path, names: tuple[str, ...]) -> list[Path]:
    """The files of a split: those of a folder with one of these names, or files named so, perhaps in several shards."""
    ways: dict[str, list[Path]] = {}
    for name in names:
        if (folder / name).is_dir():
            ways[f"{name}/"] = document_files(folder / name)
        for path in sorted(folder.iterdir()):
            if path.is_file() and _format(path) and _is_of_split(path.name, name):
                whole = path.name == f"{name}{_format(path)}"
                ways.setdefault(path.name if whole else f"{name}-*", []).append(path)
    ways = {way: paths for way, paths in ways.items() if paths}
    if len(ways) > 1:
        raise UserError(f"{folder} has the split {names[0]} twice, as {' and as '.join(ways)}: remove one of them")
    return _distinct(next(iter(ways.values()), []))


def _undivided_files(folder: Path) -> list[Path]:
    """The files of documents in a folder that has no splits. UserError if a folder in it seems to have them."""
    paths = document_files(folder)
    for path in paths:
        parts = path.relative_to(folder).parts
        for i, part in enumerate(parts[1:], start=1):
            if any(part == name or _is_of_split(part, name) for names in NAMES.values() for name in names):
                raise UserError(
                    f"data.path={folder} has the documents of a split in {Path(*parts[: i + 1])}: use "
                    f"data.path={folder.joinpath(*parts[:i])}"
                )
    return paths


def _is_of_split(name: str, split: str) -> bool:
    return name.startswith(split) and name[len(split) : len(split) + 1] in ("-", "_", ".")


def document_files(folder: Path) -> list[Path]:
    """The files of documents in a folder and the folders in it, in order of their names; hidden ones are left out."""
    shown = [path for path in files_below(folder) if not any(part[0] == "." for part in path.relative_to(folder).parts)]
    found = [path for path in shown if _format(path)]
    skipped = sorted({path.suffix for path in shown if path.suffix in UNREAD and not _format(path)})
    if found and skipped:  # without any documents there is an error, which names the formats
        _warn_of_skipped(folder, ", ".join(skipped))
    return _distinct(found)


@cache  # a folder is searched several times
def _warn_of_skipped(folder: Path, endings: str) -> None:
    log.warning("%s has files that are left out (%s): documents are read from %s", folder, endings, ", ".join(FORMATS))


def files_below(folder: Path) -> list[Path]:
    """All files below a folder, in order. PermissionError for a folder in it that may not be read."""
    walk = os.walk(folder, onerror=raising)
    return sorted(Path(root, name) for root, _, names in walk for name in names)


def raising(error: OSError) -> None:
    """For os.walk, which else takes a folder that may not be read as empty."""
    raise error


def _distinct(paths: list[Path]) -> list[Path]:
    """UserError if a file is there twice, such as packed and unpacked."""
    seen: dict[str, Path] = {}
    for path in paths:
        twin = seen.setdefault(str(path).removesuffix(_format(path)), path)
        if twin is not path:
            raise UserError(f"{twin} and {path.name} seem to have the same documents: remove one of them")
    return paths


def _format(path: Path) -> str:
    """The ending of a file of documents, or an empty string."""
    return next((end for end in FORMATS if path.name.endswith(end)), "")


def document_chunks(corpus: Corpus, config: DataConfig, found: list[Source]) -> Iterator[Chunk]:
    """The documents of a split in order, in chunks for the processes."""
    raw, number = config.level is Level.byte, 0
    key = config.text_key if isinstance(config, DocumentsConfig) else ""
    for end, group in groupby((source.path for source in found), key=_format):
        if corpus.document == "file" and end not in (*JSON, ".parquet"):
            paths = list(group)
            yield from text_chunks(paths, raw, number)
            number += len(paths)
            continue
        for path in group:
            chunks: Iterator[Chunk]
            if corpus.document == "article":
                chunks = article_chunks(path, raw, number)
            else:
                chunks = row_chunks(path, key, number) if end == ".parquet" else json_chunks(path, key, number)
            for chunk in chunks:
                yield chunk
                number = chunk.stop

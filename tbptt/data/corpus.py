"""What a corpus is: its files, where they come from, and published counts."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tbptt.data.config import DataConfig, Level
from tbptt.data.sources import Source, Sources
from tbptt.data.vocabulary import EOS
from tbptt.errors import UserError

SPLITS = ("train", "valid", "test")
TEXT_LEVELS = (Level.word, Level.char, Level.byte, Level.bpe)


@dataclass(frozen=True)
class Archive:
    """The file a corpus is distributed as."""

    name: str
    url: str
    size: int | None = None  # bytes, where known
    sha256: str | None = None


@dataclass(frozen=True)
class Published:
    """Published counts: tokens per split and types of the training text, at the first of the corpus's levels, without
    start tokens; documents per split."""

    tokens: dict[str, int]
    types: int | None = None
    documents: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Corpus:
    """A corpus with separate files per split, searched by name in `data.path`, its subfolders, or an archive in it."""

    title: str
    files: dict[str, str]  # split -> file name, or a glob pattern of files read in order of their names
    levels: tuple[Level, ...] = (Level.word,)
    archive: Archive | None = None
    hub: dict[str, list[str]] = field(default_factory=dict)  # split -> parquet files on the Hugging Face hub
    published: Published | None = None
    licence: str = ""
    lower: bool = False  # the published text is lower case
    line_end: str = EOS  # at level word: the symbol after every line
    line_start: str = ""  # at level word: the symbol before every line
    document: str = ""  # what one document is: "file" or "article"; empty if the text does not show it

    def check(self, config: DataConfig) -> None:
        """UserError for invalid settings, without searching for files."""
        if config.level not in self.levels:
            raise UserError(
                f"data.level={config.level.name} is not available for data={config.name}: "
                f"use {' or '.join(level.name for level in self.levels)}"
            )
        if config.documents and not self.document:
            raise UserError(f"the text of data={config.name} does not show documents: remove data.documents=true")
        if config.path is None and not self.can_download():
            raise UserError(f"data={config.name} needs data.path=FOLDER, a folder with {self.expected()}")
        if config.path is not None and not Path(config.path).expanduser().exists():
            raise UserError(f"data.path={config.path} does not exist: it must be a folder with {self.expected()}")
        if config.path is not None and Path(config.path).expanduser().is_dir():
            os.scandir(Path(config.path).expanduser()).close()  # `glob` takes a folder that may not be read as empty

    def can_download(self) -> bool:
        """Whether it can be downloaded."""
        return self.archive is not None

    def expected(self) -> str:
        """The names of the expected files, for messages."""
        names = ", ".join(dict.fromkeys(self.files.values()))
        return f"{names}, or {self.archive.name}" if self.archive else names

    def find(self, folder: Path) -> Sources | None:
        """The sources of all splits in `folder` or its subfolders; None if any is missing."""
        found: Sources = {}
        for split in SPLITS:
            for depth in ("", "*/", "*/*/"):
                paths = sorted(path for path in folder.glob(depth + self.files[split]) if path.is_file())
                if paths:
                    _check_one_folder(paths, folder)
                    found[split] = [Source(path) for path in paths]
                    break
        return found if len(found) == len(SPLITS) else None

    def vocab_size(self, config: DataConfig) -> int | None:
        """The vocabulary size if it is known before the text is read, else None."""
        if config.level is Level.byte:
            return 256 + config.documents
        as_published = config.level is Level.word and config.check_counts and config.vocabulary is None
        unchanged = config.min_count == 1 and config.max_vocab is None and config.lower == self.lower
        types = self.published.types if self.published and as_published and unchanged else None
        return types and types + config.documents

    def check_counts(self, config: DataConfig, splits: dict[str, dict[str, Any]], vocab_size: int) -> None:
        """UserError if the counts of a corpus prepared with published settings differ from the published counts."""
        published = self.published
        if published is None or not config.check_counts:
            return
        pairs = []
        if config.level is self.levels[0] and config.lower == self.lower:
            starts = {split: counts.get("documents", 0) for split, counts in splits.items()}  # one token each
            pairs += [(f"{s} tokens", splits[s]["tokens"] - starts[s], count) for s, count in published.tokens.items()]
            counted_here = config.vocabulary is None and config.min_count == 1 and config.max_vocab is None
            if published.types and counted_here:
                pairs.append(("types", vocab_size - config.documents, published.types))
        if config.documents:
            pairs += [(f"documents in {s}", splits[s]["documents"], count) for s, count in published.documents.items()]
        wrong = [f"{found:,} {what} instead of {expected:,}" for what, found, expected in pairs if found != expected]
        if wrong:
            raise UserError(
                f"this is not {self.title} as published: {', '.join(wrong)}; use the published files, or "
                "data.check_counts=false to accept these"
            )


def _check_one_folder(paths: list[Path], folder: Path) -> None:
    """UserError if the files of a split are in several folders, which may be those of other corpora."""
    first, *others = dict.fromkeys(path.parent for path in paths)
    if others:
        raise UserError(f"data.path={folder} has {paths[0].name} in {first} and in {others[0]}: use one of these")

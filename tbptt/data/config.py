"""The configuration of the `data` group."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import ClassVar

from tbptt.data.reading import read_users_text, readable
from tbptt.errors import UserError
from tbptt.threads import core_count


class Level(Enum):
    byte = "byte"
    char = "char"
    word = "word"
    bpe = "bpe"


class Order(Enum):
    sequential = "sequential"  # as in the text
    shuffled = "shuffled"  # documents, or without them a lane's segments, in random order, a new one in each epoch


@dataclass
class DataConfig:
    name: str  # the corpus, one of tbptt.data.corpora.CORPORA
    path: str | None = None  # folder with its files, its archive or prepared token files; null: download
    url: str | None = None  # a mirror to download from instead of the original address
    level: Level = Level.word  # what one token is
    batch_size: int = 32  # GLOBAL lanes: contiguous stretches of the stream trained side by side
    order: Order = Order.sequential  # in which training reads documents, or the segments of a lane
    cache: str = "${oc.env:TBPTT_CACHE,${oc.env:HOME,.}/.cache/tbptt}"  # folder for downloads and token files
    workers: int = 0  # processes that prepare the token files; 0: one for each core
    verify: bool = False  # compare the SHA-256 of the token files before use
    check_counts: bool = True  # raise an error if token counts differ from the published ones
    lower: bool = False  # lower-case the text
    min_count: int = 1  # words and characters that are rarer in train become <unk>
    max_vocab: int | None = None  # only this many of the most frequent entries are kept
    vocabulary: str | None = None  # a file with one word or character per line; a tokenizer.json
    bpe_size: int = 8192  # vocabulary size of a BPE tokenizer trained on train
    documents: bool = False  # a start token begins every document, in corpora whose text shows where they are

    RESULT_NEUTRAL: ClassVar = ("cache", "workers", "verify", "check_counts")

    def check(self) -> None:
        """UserError for invalid settings."""
        for key, least in (("batch_size", 1), ("workers", 0), ("min_count", 1), ("bpe_size", 257)):
            if getattr(self, key) < least:
                raise UserError(f"data.{key}={getattr(self, key)} must be {least} or more")
        if not self.cache:
            raise UserError("data.cache (or the variable TBPTT_CACHE) is empty: it must be a folder")
        if self.max_vocab is not None and self.max_vocab < 2:
            raise UserError(f"data.max_vocab={self.max_vocab} must be 2 or more, or null for no limit")
        self.vocabulary_sha256()
        if self.vocabulary is not None:
            read_users_text(Path(self.vocabulary).expanduser(), f"data.vocabulary={self.vocabulary}")
        if self.vocabulary is not None and (self.min_count > 1 or self.max_vocab is not None):
            raise UserError("data.vocabulary cannot be combined with data.min_count or data.max_vocab")
        if self.level is Level.byte and (self.lower or self.min_count > 1 or self.max_vocab or self.vocabulary):
            raise UserError(
                "data.level=byte always uses all 256 bytes: remove data.lower, data.min_count, data.max_vocab and "
                "data.vocabulary"
            )
        if self.level is Level.bpe and (self.min_count > 1 or self.max_vocab):
            raise UserError("data.level=bpe is sized by data.bpe_size: remove data.min_count and data.max_vocab")
        if self.level is Level.bpe and self.vocabulary and (self.lower or self.bpe_size != DataConfig.bpe_size):
            raise UserError(
                f"data.vocabulary={self.vocabulary} is a tokenizer with a size and letters of its own: remove "
                "data.lower and data.bpe_size"
            )
        if self.url is not None and self.path is not None:
            raise UserError(
                f"data.url={self.url} has no effect where data.path={self.path} is read: remove one of them"
            )

    def settings(self) -> dict[str, object]:
        """The settings that determine the token files, together with the content of the sources."""
        chosen: dict[str, object] = {key: getattr(self, key) for key in ("name", "lower", "min_count", "max_vocab")}
        chosen |= {"level": self.level.name, "bpe_size": self.bpe_size if self.level is Level.bpe else None}
        chosen["vocabulary"] = self.vocabulary_sha256()
        return chosen | ({"documents": True} if self.documents else {})

    def source_name(self) -> str:
        """The name of the folder for what is downloaded."""
        return self.name

    def vocabulary_sha256(self) -> str | None:
        """SHA-256 of data.vocabulary (its content matters, not its path). UserError if there is no such file."""
        if self.vocabulary is None:
            return None
        path = Path(self.vocabulary).expanduser()
        with readable(f"data.vocabulary={self.vocabulary}"):
            if not path.is_file():
                raise UserError(f"data.vocabulary={self.vocabulary}: there is no file of this name")
            return hashlib.sha256(path.read_bytes()).hexdigest()

    @property
    def is_one_text(self) -> bool:
        """Whether data.path is a single text file to be scored, rather than a corpus of three splits."""
        with readable(f"data.path={self.path}"):
            return self.name == "text" and Path(self.path or "").expanduser().is_file()

    def processes(self) -> int:
        """The number of worker processes."""
        return self.workers or core_count()

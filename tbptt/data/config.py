"""What the `data` group configures."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import ClassVar

from tbptt.errors import UserError


class Level(Enum):
    byte = "byte"
    char = "char"
    word = "word"
    bpe = "bpe"


@dataclass
class DataConfig:
    name: str  # the corpus, one of tbptt.data.corpora.CORPORA
    path: str | None = None  # where its files, its archive, or token files prepared elsewhere are; none: downloaded
    url: str | None = None  # a mirror to download from, instead of the corpus's home
    level: Level = Level.word  # what one token is
    batch_size: int = 32  # GLOBAL lanes: contiguous stretches of the stream trained side by side
    cache: str = "${oc.env:TBPTT_CACHE,${oc.env:HOME,.}/.cache/tbptt}"  # where downloads and token files are kept
    workers: int = 0  # processes that prepare the token files; 0: one for each core
    verify: bool = False  # read the token files through and compare their SHA-256 before use
    check_counts: bool = True  # an error if a published corpus has other counts than were published
    lower: bool = False  # lower-case the text
    min_count: int = 1  # rarer words and characters of train become <unk>
    max_vocab: int | None = None  # as do those beyond this many entries, the most frequent first
    vocabulary: str | None = None  # a file of words or characters, one a line, to use as they stand; a tokenizer.json
    bpe_size: int = 8192  # entries of a subword vocabulary trained here

    RESULT_NEUTRAL: ClassVar = ("cache", "workers", "verify", "check_counts")

    def check(self) -> None:
        for key, least in (("batch_size", 1), ("workers", 0), ("min_count", 1), ("bpe_size", 257)):
            if getattr(self, key) < least:
                raise UserError(f"data.{key}={getattr(self, key)} must be {least} or more")
        if not self.cache:
            raise UserError("data.cache (or the variable TBPTT_CACHE) is empty: it must name a folder")
        if self.max_vocab is not None and self.max_vocab < 2:
            raise UserError(f"data.max_vocab={self.max_vocab} must be 2 or more, or null for no limit")
        self.vocabulary_sha256()
        if self.vocabulary is not None and (self.min_count > 1 or self.max_vocab is not None):
            raise UserError("data.vocabulary is used as it stands: leave out data.min_count and data.max_vocab")
        if self.level is Level.byte and (self.lower or self.min_count > 1 or self.max_vocab or self.vocabulary):
            raise UserError("data.level=byte has all 256 bytes for a vocabulary: data.lower and the like do not apply")
        if self.level is Level.bpe and (self.min_count > 1 or self.max_vocab):
            raise UserError("data.level=bpe has its own size: use data.bpe_size, not data.min_count or data.max_vocab")

    def settings(self) -> dict[str, object]:
        """What of this configuration the token files depend on, besides the source's content."""
        chosen: dict[str, object] = {key: getattr(self, key) for key in ("name", "lower", "min_count", "max_vocab")}
        chosen |= {"level": self.level.name, "bpe_size": self.bpe_size if self.level is Level.bpe else None}
        return chosen | {"vocabulary": self.vocabulary_sha256()}

    def vocabulary_sha256(self) -> str | None:
        """The content of the vocabulary counts, not where it lies. UserError if it is not there."""
        if self.vocabulary is None:
            return None
        path = Path(self.vocabulary).expanduser()
        if not path.is_file():
            raise UserError(f"data.vocabulary={self.vocabulary} is no file")
        return hashlib.sha256(path.read_bytes()).hexdigest()

    @property
    def is_one_text(self) -> bool:
        """Whether this is a text to be scored as a whole, rather than a corpus of three splits."""
        return self.name == "text" and Path(self.path or "").expanduser().is_file()

    def processes(self) -> int:
        return self.workers or len(os.sched_getaffinity(0))

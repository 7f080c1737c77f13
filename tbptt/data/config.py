"""What the `data` group configures."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

from tbptt.errors import UserError


class Level(Enum):
    byte = "byte"
    char = "char"
    word = "word"


@dataclass
class DataConfig:
    name: str  # the corpus, one of tbptt.data.corpora.CORPORA
    path: str | None = None  # where its files are
    level: Level = Level.word  # what one token is
    batch_size: int = 32  # GLOBAL lanes: contiguous stretches of the stream trained side by side
    cache: str = "${oc.env:TBPTT_CACHE,${oc.env:HOME,.}/.cache/tbptt}"  # where token files are kept

    NOT_NUMBERS: ClassVar = ("cache",)

    def check(self) -> None:
        if self.batch_size < 1:
            raise UserError(f"data.batch_size={self.batch_size} must be at least 1 lane")

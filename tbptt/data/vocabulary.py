"""Vocabularies: the symbols of a corpus, most frequent first, and the way from text to token ids and back."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tbptt.data.config import Level
from tbptt.errors import UserError

EOS, UNK = "<eos>", "<unk>"


@dataclass
class Vocabulary:
    """`symbols[i]` is the text of token i: a word, a character, or (level byte) nothing but its number."""

    level: Level
    symbols: list[str]
    ids: dict[str, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.ids = {symbol: i for i, symbol in enumerate(self.symbols)}

    def __len__(self) -> int:
        return len(self.symbols)

    @property
    def dtype(self) -> np.dtype:
        """The smallest unsigned integer that holds every id."""
        return np.dtype(np.min_scalar_type(len(self) - 1)).newbyteorder("<")

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def to_json(self) -> str:
        return json.dumps({"level": self.level.name, "symbols": self.symbols}, ensure_ascii=False)

    @classmethod
    def from_file(cls, path: Path) -> Vocabulary:
        read = json.loads(path.read_text(encoding="utf-8"))
        return cls(Level[read["level"]], read["symbols"])

    def encode(self, pieces: Iterable[str]) -> tuple[np.ndarray, Counter[str]]:
        """Symbols -> ids, and how often each unknown symbol was met (its id is that of `<unk>`; 0 without one)."""
        pieces = list(pieces)
        ids = [self.ids.get(piece, -1) for piece in pieces]
        array = np.array(ids, dtype=np.int64)
        where = np.flatnonzero(array < 0)
        array[where] = self.ids.get(UNK, 0)
        return array.astype(self.dtype), Counter(pieces[i] for i in where)


def byte_vocabulary() -> Vocabulary:
    return Vocabulary(Level.byte, [f"{byte:02x}" for byte in range(256)])


def pieces(path: Path, level: Level, lines_at_once: int = 100_000) -> Iterator[list[str]]:
    """The symbols of a text file, some lines at a time. Words are followed by one `<eos>` a line."""
    with open(path, encoding="utf-8", newline="\n") as file:
        chunk: list[str] = []
        try:
            for number, line in enumerate(file, start=1):
                if level is Level.word:
                    chunk += line.split()
                    chunk.append(EOS)
                else:
                    chunk += line
                if number % lines_at_once == 0:
                    yield chunk
                    chunk = []
        except UnicodeDecodeError as error:
            raise UserError(f"{path} is not UTF-8 text ({error.reason}): convert it, or use data.level=byte") from error
    if chunk:
        yield chunk


def count_vocabulary(paths: list[Path], level: Level) -> Vocabulary:
    """The symbols of the training text, most frequent first (then first met); `<eos>` leads, as in the original."""
    counts: Counter[str] = Counter()
    for path in paths:
        for chunk in pieces(path, level):
            counts.update(chunk)
    if not counts:
        raise UserError(f"{paths[0]} is empty: there is no vocabulary to make of it")
    symbols = [symbol for symbol, _ in counts.most_common()]
    if level is Level.word:
        symbols.remove(EOS)
        symbols.insert(0, EOS)
    return Vocabulary(level, symbols)

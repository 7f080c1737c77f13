"""Vocabularies: the symbols of a corpus, the most frequent first."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tbptt.data.config import DataConfig, Level
from tbptt.data.reading import read_users_text
from tbptt.errors import UserError

EOS, UNK = "<eos>", "<unk>"
UNKNOWN = (UNK, "<UNK>")  # the second is used by lm1b's reference vocabulary
START = "<doc>"
LINE_ENDS = (EOS, "</s>", "<S>")  # of the original code, of fairseq, and of lm1b (also at line starts)


@dataclass
class Vocabulary:
    """`symbols[i]` is the text of token id i: a word, a character, a subword, or (level byte) its value in hex.

    `start_symbol` is the one that begins a document. It stands for no text, even if it is written there.
    """

    level: Level
    symbols: list[str]
    start_symbol: str | None = None
    ids: dict[str, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.ids = {symbol: i for i, symbol in enumerate(self.symbols)}

    def __len__(self) -> int:
        return len(self.symbols)

    @property
    def start(self) -> int | None:
        """The id of the token that begins a document, or None."""
        return None if self.start_symbol is None else self.ids[self.start_symbol]

    def with_start(self) -> Vocabulary:
        """This vocabulary, or with one more entry for the token that begins a document."""
        if self.start_symbol is not None:
            return self
        added = new_symbol(self.symbols)
        return Vocabulary(self.level, [*self.symbols, added], added)

    @property
    def unknown(self) -> int | None:
        """The id of the entry for unknown symbols, or None."""
        return next((self.ids[symbol] for symbol in UNKNOWN if symbol in self.ids), None)

    @property
    def line_marks(self) -> tuple[str, str]:
        """The symbols before and after every line at level word; an empty string for none."""
        end = next((mark for mark in LINE_ENDS if mark in self.ids), "")
        return ("<S>" if end == "<S>" else "", end)

    @property
    def dtype(self) -> np.dtype:
        """The smallest unsigned integer dtype that can represent every id."""
        return np.dtype(np.min_scalar_type(len(self) - 1)).newbyteorder("<")

    @property
    def sha256(self) -> str:
        """Of the level and the symbols: which of them begins a document changes no id."""
        return hashlib.sha256(self._to_json({}).encode()).hexdigest()

    def to_json(self) -> str:
        return self._to_json({} if self.start_symbol is None else {"start": self.start_symbol})

    def _to_json(self, more: dict[str, str]) -> str:
        return json.dumps({"level": self.level.name, "symbols": self.symbols} | more, ensure_ascii=False)

    @classmethod
    def from_file(cls, path: Path) -> Vocabulary:
        """OSError, ValueError, KeyError or TypeError if it is not a readable file of a vocabulary."""
        read = json.loads(path.read_text(encoding="utf-8-sig"))
        level, symbols = Level[read["level"]], read["symbols"]
        if not isinstance(symbols, list) or not all(isinstance(symbol, str) for symbol in symbols):
            raise ValueError("its symbols are not a list of texts")
        start = read.get("start")
        if start is not None and start not in symbols:
            raise ValueError(f"its start {start!r} is not one of its symbols")
        return cls(level, symbols, start)

    def to_bytes(self, ids: np.ndarray) -> bytes:
        """At level byte: the text of ids (n,), in which a document's start is nothing."""
        return ids[ids < 256].astype(np.uint8).tobytes()

    def lookup(self, symbols: list[str]) -> np.ndarray:
        """The id of each symbol of a text, -1 if unknown: (len(symbols),) int64."""
        ids = np.array([self.ids.get(symbol, -1) for symbol in symbols], dtype=np.int64)
        if self.start is not None:
            ids[ids == self.start] = -1
        return ids


def new_symbol(symbols: Collection[str]) -> str:
    """A name for the token that begins a document, which none of the symbols has."""
    name = START
    while name in symbols:
        name = f"<{name}>"
    return name


def byte_vocabulary() -> Vocabulary:
    return Vocabulary(Level.byte, [f"{byte:02x}" for byte in range(256)])


def build_vocabulary(counts: Counter[str], config: DataConfig, first: str) -> Vocabulary:
    """The symbols of the training text by decreasing frequency, ties in order of first occurrence.

    `first` gets id 0, as in the original code. `<unk>` replaces symbols rarer than `min_count` or beyond `max_vocab`.
    """
    symbols = [symbol for symbol, _ in counts.most_common()]
    if config.min_count > 1 or config.max_vocab is not None:
        always = [symbol for symbol in (first, UNK) if symbol]
        kept = [s for s in symbols if counts[s] >= config.min_count and s not in always]
        kept = kept[: None if config.max_vocab is None else max(0, config.max_vocab - len(always))]
        symbols = sorted([*kept, *always], key=lambda symbol: -counts[symbol])
    if first in counts:
        symbols.remove(first)
        symbols.insert(0, first)
    return Vocabulary(config.level, symbols)


def given_vocabulary(config: DataConfig) -> Vocabulary | None:
    """The vocabulary of data.vocabulary, at level word or char; None without it."""
    return read_vocabulary_file(Path(config.vocabulary).expanduser(), config.level) if config.vocabulary else None


def read_vocabulary_file(path: Path, level: Level) -> Vocabulary:
    """Read data.vocabulary: one symbol per line; anything after a word, such as a count, is ignored.

    At level char the line `\\n` is the line break. A file with suffix .json must be the vocabulary.json of a run or of
    a prepared corpus.
    """
    if path.suffix == ".json":
        vocabulary = load_vocabulary(path)
        if vocabulary.level is not level:
            raise UserError(f"{path} is a vocabulary of level {vocabulary.level.name}, not {level.name}")
        return vocabulary
    lines = read_users_text(path).split("\n")
    lines = lines[:-1] if lines[-1] == "" else lines
    if level is Level.word:
        symbols = [line.split()[0] if line.split() else "" for line in lines]
    else:
        symbols = ["\n" if line == r"\n" else line for line in lines]
    misfit = (i for i, symbol in enumerate(symbols) if not symbol or (level is Level.char and len(symbol) > 1))
    if (bad := next((i for i in misfit if symbols[i] != UNK), None)) is not None:
        kind = "word" if level is Level.word else "character"
        raise UserError(
            f"data.vocabulary={path} must have one {kind} in each line, but line {bad + 1} is {lines[bad]!r}"
        )
    repeated = [symbol for symbol, count in Counter(symbols).items() if count > 1]
    if repeated or not symbols:
        problem = f"repeats {repeated[:3]}" if repeated else "is empty"
        raise UserError(f"data.vocabulary={path} must list each entry once, one per line, but {problem}")
    return Vocabulary(level, symbols)


def check_unknown(unknown: Counter[str], vocabulary: Vocabulary, split: str, config: DataConfig) -> None:
    """UserError if there are unknown symbols and the vocabulary has no entry for them."""
    if unknown and vocabulary.unknown is None:
        examples = ", ".join(repr(symbol) for symbol, _ in unknown.most_common(3))
        advice = f"use data.min_count=2, which replaces rare symbols by {UNK}, or data.level=byte"
        if config.vocabulary:
            advice = f"add them or {UNK} to data.vocabulary={config.vocabulary}"
        raise UserError(
            f"the {split} split of data={config.name} has {unknown.total()} tokens ({len(unknown)} types, such as "
            f"{examples}) that are not in the vocabulary, which has no {UNK} entry: {advice}"
        )


def load_vocabulary(path: Path) -> Vocabulary:
    """Load the vocabulary.json of a run or of a prepared corpus. UserError if it is invalid."""
    try:
        return Vocabulary.from_file(path)
    except PermissionError:
        raise  # it may be valid
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not a valid vocabulary.json of a run or a prepared corpus ({error})") from error

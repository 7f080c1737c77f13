"""Documents as they come from files: whole, or in pieces if they are long.

Every piece is encoded by itself. A document is cut at the first line end after each PIECE bytes, however a file is cut
into chunks for the processes, so that neither chunks nor processes change the tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tbptt.errors import UserError

PIECE = 1 << 20  # bytes
CHUNK = 8 << 20  # bytes that a process reads at a time; results do not depend on it, memory does


@dataclass
class Pieces:
    """N pieces of documents, in order. `numbers` count the documents of a split from 0."""

    texts: pa.Array  # (N,) large_string; large_binary for bytes that need not be UTF-8
    begins: np.ndarray  # (N,) bool: the piece begins a document
    numbers: np.ndarray  # (N,) int64: the number of its document

    def filter(self, chosen: np.ndarray) -> Pieces:
        """The pieces where `chosen` (N,) is true."""
        return Pieces(self.texts.filter(pa.array(chosen)), self.begins[chosen], self.numbers[chosen])


class Chunk(Protocol):
    """What one process reads at a time. It can be sent to another process."""

    @property
    def stop(self) -> int:
        """The number of the first document behind it."""

    @property
    def size(self) -> int:
        """About how many bytes of the source it is."""

    def pieces(self) -> Pieces:
        """UserError for what is no text, with its place."""


def whole_documents(texts: pa.Array, numbers: np.ndarray) -> Pieces:
    """Pieces of N documents, given as large_string; the long ones are cut."""
    lengths = pc.binary_length(texts).to_numpy()
    if not (lengths > PIECE).any():
        return Pieces(texts, np.ones(len(texts), dtype=bool), numbers)
    parts = [cut(text) for text in texts.cast(pa.large_binary()).to_pylist()]
    counts = np.array([len(part) for part in parts])
    begins = np.zeros(counts.sum(), dtype=bool)
    begins[np.cumsum(counts) - counts] = True
    joined = pa.array([piece for part in parts for piece in part], pa.large_binary()).cast(texts.type)
    return Pieces(joined, begins, np.repeat(numbers, counts))


def cut(text: bytes) -> list[bytes]:
    """The pieces of one document: at least one."""
    pieces, start = [], 0
    while start < len(text):
        stop = text.find(b"\n", start + PIECE - 1) + 1 or len(text)
        pieces.append(text[start:stop])
        start = stop
    return pieces or [b""]


def check_utf8(texts: pa.Array, where: Callable[[int], str]) -> None:
    """UserError for the first text that is not UTF-8; `where(i)` names text number i."""
    try:
        texts.validate(full=True)
    except pa.ArrowInvalid:
        for i, text in enumerate(texts.cast(pa.large_binary()).to_pylist()):
            try:
                text.decode()
            except UnicodeDecodeError as error:
                raise UserError(f"{where(i)} is not UTF-8 text ({error.reason}): convert it") from error
        raise


def no_text(where: Path | str, key: str, found: str) -> UserError:
    """The error for a document whose text is something else."""
    return UserError(f"{where}: {key!r} must be a text, not {found}; data.text_key names the text of a document")

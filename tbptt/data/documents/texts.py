"""Documents in text files: one each, or the articles of WikiText."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa

from tbptt.data import reading
from tbptt.data.documents import pieces as documents
from tbptt.data.documents.pieces import Pieces, whole_documents
from tbptt.data.reading import readable
from tbptt.data.sources import Source

ADVICE = "convert it, or use data.level=byte"
# A line " = Title = " between blank lines. Headings of sections have two or more "=" on each side.
TITLE = re.compile(rb"(?<=\n)[ \t\r]*\n( = (?!= )[^\n]*(?<! =) =[ \t\r]*\n)(?=[ \t\r]*\n)")


@dataclass(frozen=True)
class TextFiles:
    """Pieces of files, each of which is a document, with their numbers. At level byte they need not be UTF-8."""

    parts: tuple[tuple[int, Source], ...]
    raw: bool
    stop: int
    size: int

    def pieces(self) -> Pieces:
        if self.raw:
            texts = pa.array([source.read() for _, source in self.parts], pa.large_binary())
        else:
            read = (reading.decode(part.read(), part.path, part.start, ADVICE) for _, part in self.parts)
            texts = pa.array(list(read), pa.large_string())
        begins = np.array([source.start == 0 for _, source in self.parts])
        return Pieces(texts, begins, np.array([number for number, _ in self.parts], dtype=np.int64))


def text_chunks(paths: Sequence[Path], raw: bool, number: int) -> Iterator[TextFiles]:
    """The chunks of files, the first of which has this number: many small files, or a part of a large one."""
    parts: list[tuple[int, Source]] = []
    size = 0
    for i, path in enumerate(paths, start=number):
        for source in file_pieces(path):
            parts.append((i, source))
            size += source.size()
            if size >= documents.CHUNK:
                yield TextFiles(tuple(parts), raw, i + 1, size)
                parts, size = [], 0
    if parts:
        yield TextFiles(tuple(parts), raw, number + len(paths), size)


def file_pieces(path: Path) -> Iterator[Source]:
    """The pieces of a file, cut as `pieces.cut` cuts a text."""
    with readable(path), open(path, "rb") as file:
        end = path.stat().st_size
        if end == 0:
            yield Source(path, 0, 0)
        start = 0
        while start < end:
            file.seek(min(start + documents.PIECE - 1, end))
            file.readline()
            yield Source(path, start, stop := min(file.tell(), end))
            start = stop


@dataclass(frozen=True)
class Articles:
    """Whole articles of WikiText, in a byte range of a file."""

    source: Source
    raw: bool
    number: int
    stop: int
    size: int

    def pieces(self) -> Pieces:
        content = self.source.read()
        articles = list(pairwise([0, *article_starts(content), len(content)]))
        if self.raw:
            texts = pa.array([content[i:j] for i, j in articles], pa.large_binary())
        else:
            path, at = self.source.path, self.source.start
            read = (reading.decode(content[i:j], path, at + i, ADVICE) for i, j in articles)
            texts = pa.array(list(read), pa.large_string())
        return whole_documents(texts, self.number + np.arange(len(texts), dtype=np.int64))


def article_starts(content: bytes) -> list[int]:
    """Where articles begin but the first, which also has what stands before its title."""
    starts = [match.start(1) for match in TITLE.finditer(content)]
    return starts[1:] if starts and content[: starts[0]].isspace() else starts


def article_chunks(path: Path, raw: bool, number: int) -> Iterator[Articles]:
    """The chunks of a file, whose first article has this number: they end where articles begin."""
    start, end = 0, path.stat().st_size
    while start < end:
        size = documents.CHUNK
        while not (starts := article_starts(Source(path, start, start + size).read())) and start + size < end:
            size *= 2
        is_last = start + size >= end
        stop = end if is_last else start + starts[-1]
        behind = number + len(starts) + is_last
        yield Articles(Source(path, start, stop), raw, number, behind, stop - start)
        start, number = stop, behind

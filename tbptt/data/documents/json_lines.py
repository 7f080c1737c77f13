"""Documents in files of JSON lines: one object a line, plain or compressed by gzip or zstd.

A plain file is divided into byte ranges at line ends, which the processes read themselves. A compressed file can only
be read from its beginning: one process unpacks it and sends the lines to the others.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa

from tbptt.data.documents import pieces
from tbptt.data.documents.pieces import Pieces, no_text, whole_documents
from tbptt.data.reading import MARK, readable
from tbptt.data.sources import Source
from tbptt.errors import UserError

CODECS = {".gz": "gzip", ".zst": "zstd"}


@dataclass(frozen=True)
class JsonLines:
    """Whole lines of a file. Its documents are numbered from `number` to before `stop`; blank lines are none."""

    path: Path
    key: str
    content: Source | bytes
    line: int  # the first, from 0
    number: int
    stop: int
    size: int

    def pieces(self) -> Pieces:
        content = self.content if isinstance(self.content, bytes) else self.content.read()
        texts = [self._text(line, i) for i, line in _present(content, self.line)]
        return whole_documents(pa.array(texts, pa.large_string()), self.number + np.arange(len(texts)))

    def _text(self, line: bytes, i: int) -> str:
        where = f"{self.path}, line {self.line + i + 1}"
        try:
            found = json.loads(line.decode())
        except UnicodeDecodeError as error:
            raise UserError(f"{where} is not UTF-8 text ({error.reason} at byte {error.start}): convert it") from error
        except (ValueError, RecursionError) as error:
            raise UserError(f"{where} is not JSON ({error}): every line must be one object") from error
        if not isinstance(found, dict):
            raise UserError(f"{where} is {_kind(found)}, but every line must be one object with a text {self.key!r}")
        if self.key not in found:
            keys = ", ".join(map(repr, list(found)[:8])) or "none"
            raise UserError(f"{where} has no key {self.key!r} (its keys: {keys}): set data.text_key")
        text = found[self.key]
        if not isinstance(text, str):
            raise no_text(where, self.key, _kind(text))
        if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
            raise UserError(f"{where}: {self.key!r} has half of a surrogate pair, which is no character: remove it")
        return text


def _present(content: bytes, first: int) -> list[tuple[int, bytes]]:
    """The lines that are not blank, each with its index. `first` is the number in the file of line 0."""
    lines = content.removeprefix(MARK if first == 0 else b"").split(b"\n")
    return [(i, line) for i, line in enumerate(lines) if line and not line.isspace()]


def _kind(value: object) -> str:
    """What a JSON value is, for messages."""
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def json_chunks(path: Path, key: str, number: int) -> Iterator[JsonLines]:
    """The chunks of a file, whose first document has this number."""
    packed = path.suffix in CODECS
    start = line = 0
    with readable(path), open_unpacked(path) as file:
        while content := _next_lines(file, path, line):
            size, behind = len(content), number + len(_present(content, line))
            held: Source | bytes = content if packed else Source(path, start, start + size)
            yield JsonLines(path, key, held, line, number, behind, size)
            start, line, number = start + size, line + content.count(b"\n"), behind


def _next_lines(file: IO[bytes], path: Path, line: int) -> bytes:
    """The next whole lines, about CHUNK bytes; empty at the end of the file."""
    try:
        content = file.read(pieces.CHUNK)
        return content if content.endswith(b"\n") else content + file.readline()
    except OSError as error:
        if error.errno is not None:
            raise
        raise UserError(
            f"{path} cannot be unpacked after line {line} ({error}): it is damaged or not complete"
        ) from error


def open_unpacked(path: Path) -> IO[bytes]:
    """Open a file that may be compressed. UserError for an empty compressed file."""
    codec = CODECS.get(path.suffix)
    if codec is None:
        return open(path, "rb")
    if path.stat().st_size == 0:
        raise UserError(f"{path} is empty, but a {codec} file has at least a head: it is damaged or not complete")
    return io.BufferedReader(pa.CompressedInputStream(pa.OSFile(str(path)), codec), 1 << 20)  # type: ignore[arg-type]

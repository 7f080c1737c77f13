"""Text sources: byte ranges of files, divided into chunks that several processes can read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tbptt.data.config import Level
from tbptt.data.reading import readable

CHUNK = 16 << 20  # bytes; results do not depend on it


@dataclass(frozen=True)
class Source:
    """The bytes [start, stop) of a file; `stop` None means its end."""

    path: Path
    start: int = 0
    stop: int | None = None

    def read(self) -> bytes:
        with readable(self.path), open(self.path, "rb") as file:
            file.seek(self.start)
            return file.read() if self.stop is None else file.read(self.stop - self.start)

    def size(self) -> int:
        end = self.path.stat().st_size
        return max(0, (end if self.stop is None else min(end, self.stop)) - self.start)

    def stat(self) -> list:
        """Path, size, modification time and range, as JSON values: they reveal a changed file."""
        stat = self.path.stat()
        return [str(self.path), stat.st_size, stat.st_mtime_ns, self.start, self.stop]


Sources = dict[str, list[Source]]  # split -> sources in the order of the stream


def sha256(sources: Sequence[Source]) -> str:
    """SHA-256 of the concatenated sources; of several, each with its size before it, since documents end with files."""
    digest = hashlib.sha256()
    for source in sources:
        if len(sources) > 1:
            digest.update(b"%d\n" % source.size())
        for start in range(source.start, source.start + source.size(), CHUNK):
            stop = min(start + CHUNK, source.start + source.size())
            digest.update(Source(source.path, start, stop).read())
    return digest.hexdigest()


def chunks(sources: Iterable[Source], level: Level, size: int = CHUNK) -> list[Source]:
    """Divide sources into chunks of about `size` bytes, at line ends (word, bpe) or character borders (char)."""
    pieces = []
    for source in sources:
        start, end = source.start, source.start + source.size()
        with readable(source.path), open(source.path, "rb") as file:
            while start < end:
                stop = min(start + size, end)
                if stop < end and level is Level.char:
                    file.seek(stop)
                    while stop < end and file.read(1)[0] & 0xC0 == 0x80:  # inside a multi-byte character
                        stop += 1
                elif stop < end and level is not Level.byte:
                    file.seek(stop - 1)
                    stop = min(stop - 1 + len(file.readline()), end)
                pieces.append(Source(source.path, start, stop))
                start = stop
    return pieces

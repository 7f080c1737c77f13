"""The screen and run.log: neither a reader that has gone nor a full disk of the log ends a run or fills the screen."""

from __future__ import annotations

import errno
import io
import logging
import os
import sys
from typing import Any

READER_GONE = {errno.EPIPE, errno.EIO}  # a closed pipe (`| head`), a terminal that was closed
_dropped: set[int] = set()


class _Stream(io.FileIO):
    """Standard output or standard error. Once nobody reads it, what is written to it is dropped."""

    def write(self, data) -> int:  # type: ignore[override]
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in READER_GONE:
                raise
        _dropped.add(self.fileno())
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self.fileno())
        os.close(null)
        return super().write(data)


def outlive_readers() -> None:
    """Let this process go on, quietly, when the reader of its output has gone. To be called before logging starts."""
    for name in ("stdout", "stderr"):
        old = getattr(sys, name)
        if not isinstance(old, io.TextIOWrapper):
            continue  # there is none
        try:
            raw = _Stream(old.fileno(), "w", closefd=False)
        except io.UnsupportedOperation:
            continue  # it is not that of the process
        old.flush()
        buffer: Any = io.BufferedWriter(raw) if isinstance(old.buffer, io.BufferedWriter) else raw  # PYTHONUNBUFFERED
        options: dict[str, Any] = {"line_buffering": old.line_buffering, "write_through": old.write_through}
        setattr(sys, name, io.TextIOWrapper(buffer, old.encoding, old.errors, **options))


def reader_gone() -> bool:
    """Whether nobody reads standard output any more."""
    return 1 in _dropped


class RunLog(logging.FileHandler):
    """run.log. Where it cannot be written, one sentence says so, and the run goes on: its results are elsewhere."""

    reported = False

    def emit(self, record: logging.LogRecord) -> None:
        try:
            super().emit(record)
        except OSError:  # it could not be opened
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self.reported:
            self.reported = True
            print(
                f"Warning: {self.baseFilename} cannot be written ({error.strerror}): lines of the log are lost; free "
                "some space, or set hydra.run.dir to another folder",
                file=sys.stderr,
            )

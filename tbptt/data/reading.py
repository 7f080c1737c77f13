"""Reading of users' text files: UTF-8, with or without a byte order mark at the head, which is no part of the text."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tbptt.errors import DENIED, UserError, denied

MARK = b"\xef\xbb\xbf"  # the byte order mark in UTF-8, which some editors write at the head of a file


@contextmanager
def readable(name: Path | str) -> Iterator[None]:
    """Turn an OSError while reading into a UserError; `name` is the file or folder, or a setting key=value."""
    try:
        yield
    except OSError as error:
        if error.errno in DENIED and error.filename is not None:
            raise UserError(denied(error)) from error
        raise UserError(f"{name} cannot be read: {error.strerror or error}") from error


def decode(content: bytes, name: Path | str, start: int = 0, advice: str = "convert it") -> str:
    """The text of the bytes of a file from its byte `start` on. UserError if they are not UTF-8."""
    skipped = len(MARK) if start == 0 and content.startswith(MARK) else 0
    try:
        return content[skipped:].decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{name} is not UTF-8 text ({error.reason} at byte {start + skipped + error.start}): {advice}"
        ) from error


def read_users_text(path: Path, name: str | None = None) -> str:
    """The text of a user's file, with the line ends of any system as `\\n`. UserError if it cannot be read."""
    with readable(name or path):
        content = path.read_bytes()
    return decode(content, name or path).replace("\r\n", "\n").replace("\r", "\n")


def has_mark(path: Path) -> bool:
    """Whether the file begins with a byte order mark; false if it may not be read."""
    with suppress(OSError), open(path, "rb") as file:
        return file.read(len(MARK)) == MARK
    return False

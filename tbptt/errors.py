"""The exception for errors that a user can fix: its message is one sentence, printed without a traceback."""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}


class UserError(Exception):
    """Bad input. The message says what is wrong, where, and what would be right."""


@contextmanager
def full_disk_reported(path: Path | str, key: str) -> Iterator[None]:
    """Turn a disk-full error while writing `path`, a file or a folder, into a UserError that names the setting `key`.

    Also an error of a library, which gives the number or the system's words in its message, or is raised after it.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        for number in FULL & set(_system_errors(error)):
            raise UserError(
                f"the disk of {getattr(error, 'filename', None) or path} is full ({os.strerror(number)}): free some "
                f"space, or set {key} to a folder on another disk"
            ) from error
        raise


@contextmanager
def denied_files_reported() -> Iterator[None]:
    """Turn an error about a file that may not be read or written into a UserError that names the file."""
    try:
        yield
    except OSError as error:
        if error.errno not in DENIED or error.filename is None:
            raise
        raise UserError(denied(error)) from error


def denied(error: OSError) -> str:
    """A sentence about the file that may not be read or written. It is not damaged, and not missing."""
    return (
        f"{error.filename} may not be read or written by this user ({error.strerror}): ask its owner for access, or "
        "use another path"
    )


def _system_errors(error: BaseException | None) -> Iterator[int]:
    """The numbers of the system's errors that `error` is, names or was raised after."""
    while error is not None:
        if isinstance(error, OSError) and error.errno is not None:
            yield error.errno
        yield from map(int, re.findall(r"\(os error (\d+)\)", str(error)))
        yield from (number for number in FULL if os.strerror(number) in str(error))
        error = error.__cause__ or error.__context__

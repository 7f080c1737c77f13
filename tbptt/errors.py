"""The exception for errors that a user can fix: its message is one sentence, printed without a traceback."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class UserError(Exception):
    """Bad input. The message says what is wrong, where, and what would be right."""


@contextmanager
def full_disk_reported(folder: Path, key: str) -> Iterator[None]:
    """Turn a disk-full error while writing to `folder` into a UserError that names the setting to change."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(
            f"the disk of {folder} is full: free some space, or set {key} to a folder on another disk"
        ) from error

"""A cache that several users share: what one has prepared all may read, and nobody writes to another's files."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tbptt.data.config import DataConfig
from tbptt.errors import UserError

NOT_A_FOLDER = errno.ENOTDIR, errno.EEXIST
NO_RIGHTS = errno.EACCES, errno.EPERM, errno.EROFS


def possible_paths(path: Path) -> tuple[Path, Path]:
    """Where a file of the cache may be: under its name, or under that of this user, if the first is another's."""
    return path, path.with_name(f"{path.name}.{os.geteuid()}")


def own_path(path: Path) -> Path:
    """Where this user writes: under the name itself, unless a file or folder of another user is there."""
    name, own = possible_paths(path)
    return own if name.exists() and name.stat().st_uid != os.geteuid() else name


def make_folder(folder: Path) -> None:
    """Create a folder and those above it. In a folder that others may write to, they may write to the new one too."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    above = folder.parent.stat().st_mode
    if above & (stat.S_IWGRP | stat.S_IWOTH) and folder.stat().st_uid == os.geteuid():
        folder.chmod(stat.S_IMODE(folder.stat().st_mode) | above & (stat.S_IRWXG | stat.S_IRWXO | stat.S_ISVTX))


@contextmanager
def rights_reported(config: DataConfig) -> Iterator[None]:
    """Turn an error for lack of rights in the cache into a UserError."""
    try:
        yield
    except OSError as error:
        if error.errno not in NOT_A_FOLDER + NO_RIGHTS:
            raise
        raise UserError(
            f"data={config.name} is not prepared in data.cache={config.cache}, and cannot be "
            f"({error.filename}: {error.strerror}): use a folder you can write to"
        ) from error

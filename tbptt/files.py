"""Files as this program leaves them: whole or not at all, with the mode that the umask gives."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from tbptt.errors import full_disk_reported


@contextmanager
def replacing(path: Path, key: str) -> Iterator[Path]:
    """A file to write, which replaces `path` when it is complete and is deleted if anything fails.

    UserError that names `path` and the setting `key` if the disk is full.
    """
    new = path.with_name(f"{path.name}.new")
    try:
        with full_disk_reported(path, key):
            yield new
            os.replace(new, path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise


def write_all(file: io.FileIO, text: str, key: str) -> None:
    """Write to an unbuffered file. UserError that names it and the setting `key` if the disk is full.

    A buffer would keep what cannot be written, and fail again wherever the file is closed.
    """
    data = memoryview(text.encode("utf-8"))
    with full_disk_reported(Path(os.fsdecode(file.name)), key):
        while data:
            data = data[file.write(data) :]


def save_weights(weights: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file. The library makes files that only their owner may read, whatever the umask is."""
    path.touch()
    mode = path.stat().st_mode & 0o777
    save_file(weights, path, metadata)
    if path.stat().st_mode & 0o777 != mode:  # some file systems have one mode for all files, and refuse to change it
        path.chmod(mode)

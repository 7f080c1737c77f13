"""The names `last` and `best` among the checkpoints of a run.

We write symbolic links; on file systems without them, text files with the name of a folder. A run directory that was
copied may have folders in their place, which are copies (scp -r, zip, a bucket), or nothing at all.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

LONGEST = 255  # bytes in a name


def point(link: Path, name: str) -> None:
    """Let `link` mean the folder `name` beside it, whatever stands in its place."""
    new = link.with_name(f"{link.name}.new")
    new.unlink(missing_ok=True)
    try:
        new.symlink_to(name)
    except OSError:
        new.unlink(missing_ok=True)
        new.write_text(f"{name}\n", encoding="utf-8")
    if is_copy(link):
        shutil.rmtree(link)
    os.replace(new, link)


def follow(link: Path) -> Path:
    """The folder that `link` means, which may not exist; `link` itself if it is a folder or nothing."""
    if link.is_symlink() or not link.is_file() or link.stat().st_size > LONGEST:
        return link.resolve()
    return (link.parent / Path(link.read_text(encoding="utf-8", errors="replace").strip()).name).resolve()


def remove(link: Path) -> None:
    if is_copy(link):
        shutil.rmtree(link)
    else:
        link.unlink(missing_ok=True)


def is_copy(link: Path) -> bool:
    return link.is_dir() and not link.is_symlink()

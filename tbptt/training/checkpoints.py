"""The checkpoints of a run: written atomically, the newest and the best kept, and found by name.

checkpoints/step_00001000/ is a checkpoint (checkpoint.py); checkpoints/last and checkpoints/best mean such folders
(links.py).
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

from torch import nn

from tbptt.errors import UserError, full_disk_reported
from tbptt.training import links
from tbptt.training.checkpoint import INFO, Checkpoint, DamagedCheckpoint, flush, write

log = logging.getLogger(__name__)
LAST, BEST = "last", "best"
WRITING = ".writing"  # the end of the name of a folder that is not complete


class Checkpoints:
    """The checkpoints of one run: the newest `keep`, and the best."""

    def __init__(self, folder: Path, keep: int = 1):
        self.folder, self.keep = folder, keep

    def save(self, step: int, model: nn.Module, training: dict[str, Any], info: dict[str, Any], best: bool) -> None:
        """Write a checkpoint, point `last` (and `best`) to it, then delete the checkpoints that exceed `keep`.

        If that fails, the checkpoints before it are whole, and none is half written. UserError if the disk is full.
        """
        name = _name(step)
        writing = self.folder / f"{name}{WRITING}"
        shutil.rmtree(writing, ignore_errors=True)
        with full_disk_reported(self.folder / name, "hydra.run.dir"):
            try:
                write(writing, model, training, info | {"step": step})
                # A folder for this step exists if the run was resumed from an older checkpoint: replace it.
                shutil.rmtree(self.folder / name, ignore_errors=True)
                os.rename(writing, self.folder / name)
            except BaseException:
                shutil.rmtree(writing, ignore_errors=True)
                raise
            links.point(self.folder / LAST, name)
            if best:
                links.point(self.folder / BEST, name)
            flush(self.folder)
        self._delete_old()

    def exist(self) -> bool:
        return bool(self._candidates())

    def newest(self) -> Checkpoint | None:
        """The newest undamaged checkpoint, or None if there are no checkpoints. Damaged ones are logged and skipped.

        UserError if all are damaged, or one may not be read: training again would delete them.
        """
        candidates = self._candidates()
        for folder in reversed(candidates):
            try:
                return Checkpoint.open(folder)
            except DamagedCheckpoint as error:
                log.warning("%s; trying the checkpoint before it", error)
        if candidates:
            raise UserError(
                f"every checkpoint in {self.folder} is damaged: repair one, or delete the folder to start from step 0"
            )
        return None

    def newest_to_continue(self) -> Checkpoint | None:
        """The newest undamaged checkpoint, in the folder of its step."""
        newest = self.newest()
        if newest and links.is_copy(self.folder / newest.folder.name) and newest.folder.name in (LAST, BEST):
            own = self.folder / _name(newest.info["step"])
            shutil.rmtree(own, ignore_errors=True)  # damaged
            newest.folder = newest.folder.rename(own)
        return newest

    def best(self) -> Checkpoint:
        folder = self.find(BEST)
        if folder is None:
            raise UserError(f"{self.folder} has no best checkpoint: no validation loss was finite")
        return Checkpoint.open(folder)

    def find(self, name: str) -> Path | None:
        """The folder of the checkpoint called `name`: `last`, `best` or that of a step. None if there is none.

        Where a copied run has no `last` or `best`, its newest checkpoint tells which they are. One that is there is not
        passed over, even if it is damaged.
        """
        folder = links.follow(self.folder / name)
        if _is_checkpoint(folder) or (name in (LAST, BEST) and folder.is_dir()):
            return folder
        if name in (LAST, BEST) and (newest := self.newest()):
            folder = newest.folder.resolve()
            if name == BEST:
                folder = folder.with_name(_name(newest.best_step()))
        return folder if _is_checkpoint(folder) else None

    def rewind(self, checkpoint: Checkpoint | None, best_step: int) -> None:
        """Delete the checkpoints after `checkpoint` and restore the links, as if they had never been made.

        Also deletes what a killed save has left. `checkpoint` is what `newest_to_continue` has found.
        """
        for folder in self.folder.glob(f"step_*{WRITING}"):
            shutil.rmtree(folder)
        for folder in self._folders():
            if not checkpoint or _step(folder) > checkpoint.info["step"]:
                shutil.rmtree(folder)
        if not checkpoint:
            return
        best, best_folder = self.folder / BEST, self.folder / _name(best_step)
        if not best_folder.exists() and links.is_copy(best) and _step(best) == best_step:
            best.rename(best_folder)
        links.point(self.folder / LAST, checkpoint.folder.name)
        if best_folder.exists():
            links.point(best, best_folder.name)
        else:  # deleted for a better one that is lost now: the continued run will make that one again
            links.remove(best)

    def _folders(self) -> list[Path]:
        """The folders of steps. PermissionError, where `glob` would find none, if the folder may not be read."""
        paths = self.folder.iterdir() if self.folder.is_dir() else ()
        return sorted(path for path in paths if path.name.startswith("step_") and path.name[5:].isdigit())

    def _candidates(self) -> list[Path]:
        """The folders of steps and copies of them, in the order of the steps; a copy comes before the folder."""
        copies = [path for path in (self.folder / BEST, self.folder / LAST) if links.is_copy(path)]
        return sorted([*copies, *self._folders()], key=_step)

    def _delete_old(self) -> None:
        best = links.follow(self.folder / BEST).name
        for folder in self._folders()[: -self.keep]:
            if folder.name != best:
                shutil.rmtree(folder)


def _name(step: int) -> str:
    return f"step_{step:08d}"


def _step(folder: Path) -> int:
    """The step of a checkpoint, from its name or, if it is a copy with another name, its content. -1 if damaged."""
    try:
        return int(folder.name.removeprefix("step_"))
    except ValueError:
        try:
            return int(json.loads((folder / INFO).read_text(encoding="utf-8"))["step"])
        except (OSError, ValueError, KeyError, TypeError):
            return -1


def _is_checkpoint(folder: Path) -> bool:
    return (folder / INFO).is_file()


def find_checkpoint(name: str) -> Checkpoint:
    return Checkpoint.open(locate_checkpoint(name))


def locate_checkpoint(name: str) -> Path:
    """The folder that checkpoint=`name` means. UserError if there is none.

    `name` is a run directory (its best checkpoint, else its last), RUN/best, RUN/last, or a checkpoint folder.
    """
    path = Path(name).expanduser()
    run, beside = path / "checkpoints", path.parent
    meanings = [(run, BEST), (run, LAST), (beside / "checkpoints", path.name), (beside, path.name)]
    folder = next((found for where, each in meanings if (found := Checkpoints(where).find(each))), None)
    if folder is None:
        problem = "is not a checkpoint" if path.exists() else "does not exist"
        raise UserError(
            f"checkpoint={name} {problem}: give a run directory, RUN/best, RUN/last or a folder in RUN/checkpoints"
        )
    return folder

"""A run directory without links, after a copy or where there are none, is read, continued and rewound like another."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tbptt.errors import UserError
from tbptt.training import links
from tbptt.training.checkpoints import Checkpoints, find_checkpoint
from tests.training.saved_runs import save, saved_run, whole_step


def with_copies(run: Path, target: Path) -> None:
    """As `scp -r` and zip do it."""
    shutil.copytree(run, target)


def with_copies_alone(run: Path, target: Path) -> None:
    shutil.copytree(run, target, ignore=shutil.ignore_patterns("step_*"))


def with_a_damaged_original(run: Path, target: Path) -> None:
    """As a copy that was interrupted."""
    with_copies(run, target)
    (target / "checkpoints/step_00000002/training.pt").unlink()


def without_links(run: Path, target: Path) -> None:
    """As a bucket does it."""
    shutil.copytree(run, target, ignore=shutil.ignore_patterns("last", "best"))


def with_text(run: Path, target: Path) -> None:
    """As our own writer and git do it where there are no links."""
    without_links(run, target)
    (target / "checkpoints/last").write_text("step_00000002\n")
    (target / "checkpoints/best").write_text("step_00000001")


def with_dangling_links(run: Path, target: Path) -> None:
    without_links(run, target)
    for name in ("last", "best"):
        (target / "checkpoints" / name).symlink_to("/nowhere")


COPIES = [with_copies, with_copies_alone, with_a_damaged_original, without_links, with_text, with_dangling_links]
EVERY_COPY = pytest.mark.parametrize("copy", COPIES)


def copied(copy: Callable[[Path, Path], None], folder: Path) -> Path:
    saved_run(folder / "run")
    copy(folder / "run", folder / "copy")
    return folder / "copy"


def tree(folder: Path) -> set[str]:
    return {f"{path.relative_to(folder)} {os.path.islink(path)}" for path in folder.rglob("*")}


@EVERY_COPY
def test_a_copy_is_read_by_every_name_and_not_written_to(tmp_path, copy):
    run = copied(copy, tmp_path)
    before = tree(run)
    for name, step in {"": 1, "best": 1, "last": 2, "checkpoints/best": 1, "checkpoints/last": 2}.items():
        assert whole_step(find_checkpoint(str(run / name))) == step, name
    checkpoints = Checkpoints(run / "checkpoints")
    assert whole_step(checkpoints.newest()) == 2 and whole_step(checkpoints.best()) == 1
    assert tree(run) == before


@EVERY_COPY
@pytest.mark.parametrize("symbolic", [True, False])
def test_a_copy_is_continued_and_has_links_again(tmp_path, copy, symbolic, monkeypatch):
    run = copied(copy, tmp_path)
    if not symbolic:
        monkeypatch.setattr(os, "symlink", lambda *paths: os.stat("/nowhere"))
    checkpoints = Checkpoints(run / "checkpoints", keep=2)
    newest = checkpoints.newest_to_continue()
    assert whole_step(newest) == 2
    checkpoints.rewind(newest, best_step=1)
    steps = {f"step_{step:08d}" for step in (1, 2)}
    assert {path.name for path in checkpoints.folder.iterdir()} == steps | {"last", "best"}
    assert not any(links.is_copy(checkpoints.folder / name) for name in ("last", "best"))
    assert (checkpoints.folder / "last").is_symlink() == symbolic
    assert whole_step(checkpoints.best()) == 1 and whole_step(find_checkpoint(str(run / "last"))) == 2
    save(checkpoints, 3, best=True)
    save(checkpoints, 4)
    assert whole_step(find_checkpoint(str(run))) == 3 and whole_step(find_checkpoint(str(run / "last"))) == 4
    save(checkpoints, 5)
    assert {path.name for path in checkpoints.folder.glob("step_*")} == {f"step_{step:08d}" for step in (3, 4, 5)}


@EVERY_COPY
def test_a_copy_is_rewound_and_what_came_later_is_gone(tmp_path, copy):
    """The newest checkpoint was lost on the way, and with it, once, the best."""
    run = copied(copy, tmp_path)
    for path in (run / "checkpoints").glob("*/training.pt"):
        if path.resolve().parent.name in ("step_00000002", "last"):
            path.write_bytes(b"damaged")
    checkpoints = Checkpoints(run / "checkpoints")
    newest = checkpoints.newest_to_continue()
    checkpoints.rewind(newest, best_step=1)
    assert {path.name for path in checkpoints.folder.iterdir()} == {"step_00000001", "last", "best"}
    for name in ("last", "best"):
        assert whole_step(find_checkpoint(str(run / name))) == 1


def test_a_best_checkpoint_that_is_not_there_is_not_another(tmp_path):
    run = copied(without_links, tmp_path)
    shutil.rmtree(run / "checkpoints/step_00000001")
    with pytest.raises(UserError, match="has no best checkpoint"):
        Checkpoints(run / "checkpoints").best()
    assert whole_step(find_checkpoint(str(run))) == 2


def test_what_a_killed_save_has_left_is_deleted(tmp_path):
    checkpoints = saved_run(tmp_path)
    left = checkpoints.folder / "step_00000003.writing"
    left.mkdir()
    checkpoints.rewind(checkpoints.newest_to_continue(), best_step=1)
    assert not left.exists() and whole_step(checkpoints.newest()) == 2

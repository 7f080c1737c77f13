"""A checkpoint is found whole or not at all: damage is passed over, a failed save loses nothing, no code is run."""

import hashlib
import itertools
import logging
import os
import pickle
import pkgutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from tbptt.errors import UserError
from tbptt.training.checkpoints import Checkpoint, Checkpoints, find_checkpoint
from tests.training.saved_runs import save, saved_run, whole_step


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def truncate(path: Path, position: int) -> None:
    path.write_bytes(path.read_bytes()[:position])


def delete(path: Path, position: int) -> None:
    path.unlink()


@pytest.mark.parametrize("damage", [flip, truncate, delete])
@pytest.mark.parametrize("name", ["model.safetensors", "training.pt", "checkpoint.json"])
def test_a_damaged_checkpoint_is_passed_over_with_a_warning(tmp_path, caplog, name, damage):
    checkpoints = saved_run(tmp_path)
    path = tmp_path / "checkpoints" / "step_00000002" / name
    content = path.read_bytes()
    positions = [0] if damage is delete else range(0, len(content), max(1, len(content) // 40))
    for position in positions:
        damage(path, position)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert whole_step(checkpoints.newest()) == 1, (
                f"byte {position}: {content[max(0, position - 20) : position + 20]}"
            )
        assert str(path.parent) in caplog.text
        path.write_bytes(content)
    assert whole_step(checkpoints.newest()) == 2


def test_there_is_no_newest_where_all_are_damaged_or_none_was_written(tmp_path):
    assert Checkpoints(tmp_path / "none", keep=2).newest() is None
    checkpoints = saved_run(tmp_path)
    for folder in (tmp_path / "checkpoints").glob("step_*"):
        (folder / "training.pt").unlink()
    with pytest.raises(UserError, match=r"every checkpoint in .* is damaged"):
        checkpoints.newest()


def fail_at(number: int, calls: Iterator[int], function: Callable) -> Callable:
    def call(*args, **kwargs):
        if next(calls) == number:
            raise OSError("disk full")
        return function(*args, **kwargs)

    return call


def test_a_save_that_fails_anywhere_leaves_the_checkpoints_before_it(tmp_path):
    names = [
        "tbptt.files.save_file",
        "torch.save",
        "json.dumps",
        "os.fsync",
        "os.rename",
        "os.replace",
        "os.symlink",
        "shutil.rmtree",
    ]
    for failing in itertools.count(1):
        run = tmp_path / str(failing)
        checkpoints, calls, failed = saved_run(run), itertools.count(1), False
        with pytest.MonkeyPatch.context() as patch:
            for name in names:
                patch.setattr(name, fail_at(failing, calls, pkgutil.resolve_name(name)))
            try:
                save(checkpoints, 3, best=True)
            except OSError:
                failed = True
                assert not list(checkpoints.folder.glob("*.writing"))
        reached = next(calls) > failing
        assert whole_step(checkpoints.newest()) in ({2, 3} if failed else {3})
        assert whole_step(find_checkpoint(str(run))) in ({1, 3} if failed else {3})
        assert whole_step(find_checkpoint(str(run / "last"))) in ({2, 3} if failed else {3})
        save(checkpoints, 3, best=True)
        assert whole_step(checkpoints.newest()) == whole_step(checkpoints.best()) == 3
        assert {path.name for path in checkpoints.folder.iterdir()} == {
            "step_00000002",
            "step_00000003",
            "last",
            "best",
        }
        if not reached:
            break
    assert failing > len(names)


class Evil:
    def __init__(self, marker: Path):
        self.marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self.marker,)


@pytest.mark.parametrize("dump", [torch.save, lambda evil, path: path.write_bytes(pickle.dumps(evil, 2))])
def test_code_in_a_checkpoint_is_not_run(tmp_path, dump):
    newest, marker = saved_run(tmp_path).newest(), tmp_path / "code was run"
    path, sums = newest.folder / "training.pt", newest.folder / "SHA256SUMS"
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    dump(Evil(marker), path)
    # Somebody who can forge a file can forge its digest too.
    sums.write_text(sums.read_text().replace(before, hashlib.sha256(path.read_bytes()).hexdigest()))
    with pytest.raises(pickle.UnpicklingError):
        Checkpoint.open(newest.folder).training_state()
    assert not marker.exists()
    with suppress(RuntimeError):  # torch runs the second file before it finds that it is not its own
        torch.load(path, weights_only=False)
    assert marker.exists(), "this file would not have run code anyhow"

"""Where no space is left, one sentence names the file and the setting; what was there before is whole."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tbptt.data.language import Language
from tbptt.data.vocabulary import byte_vocabulary
from tbptt.errors import UserError
from tbptt.evaluation.losses import save_losses
from tbptt.generation.text import decoder
from tbptt.generation.writer import ContinuationWriter
from tbptt.report.metrics import MetricsFile, read_metrics
from tbptt.report.results import read_results, write_results
from tests.refusing_disks import largest_file
from tests.training.saved_runs import model_at, save, saved_run, whole_step


def tree(folder: Path) -> dict[Path, bytes | None]:
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def sizes_of_files(folder: Path) -> list[int]:
    return sorted(path.stat().st_size for path in folder.iterdir())


def test_a_checkpoint_that_has_no_space_leaves_the_run_as_it_was(tmp_path):
    checkpoints = saved_run(tmp_path)
    before = tree(tmp_path)
    for size in {limit for each in sizes_of_files(checkpoints.newest().folder) for limit in (0, each // 2, each - 1)}:
        with largest_file(size), pytest.raises(UserError) as refused:
            save(checkpoints, 3, best=True)
        assert f"{checkpoints.folder}/step_00000003 is full" in str(refused.value)
        assert "hydra.run.dir" in str(refused.value)
        assert tree(tmp_path) == before
    save(checkpoints, 3, best=True)
    assert whole_step(checkpoints.newest()) == whole_step(checkpoints.best()) == 3


def test_a_large_checkpoint_that_has_no_space_is_said_so_too(tmp_path):
    """torch writes large tensors past Python's buffer, and raises an error of its own."""
    checkpoints = saved_run(tmp_path)
    for size in (100, 100_000, 300_000):
        with largest_file(size), pytest.raises(UserError, match=r"step_00000003 is full .*hydra\.run\.dir"):
            checkpoints.save(3, model_at(3), {"lanes": torch.zeros(100_000)}, {}, best=False)
    assert not list(checkpoints.folder.glob("*.writing")) and whole_step(checkpoints.newest()) == 2


def test_metrics_that_have_no_space_keep_their_lines(tmp_path):
    metrics = MetricsFile(tmp_path, 0)
    metrics.write({"step": 1, "loss": 2.0})
    with largest_file(metrics.path.stat().st_size + 5), pytest.raises(UserError) as refused:
        metrics.write({"step": 2, "loss": 1.0})
    assert str(metrics.path) in str(refused.value) and "hydra.run.dir" in str(refused.value)
    metrics.close()
    assert read_metrics(metrics.path) == [{"step": 1, "loss": 2.0}]
    with largest_file(3), pytest.raises(UserError, match=r"metrics\.jsonl is full"):
        MetricsFile(tmp_path, 1)
    assert read_metrics(metrics.path) == [{"step": 1, "loss": 2.0}] and len(list(tmp_path.iterdir())) == 1


def test_results_and_losses_are_whole_or_not_there(tmp_path):
    write_results({"loss": 1.0}, tmp_path)
    with largest_file(10), pytest.raises(UserError, match=r"results\.json is full .*hydra\.run\.dir"):
        write_results({"loss": 2.0, "ppl": 7.4}, tmp_path)
    assert read_results(tmp_path) == {"loss": 1.0}
    with largest_file(10), pytest.raises(UserError, match=r"losses is full .*eval\.save_losses"):
        save_losses(np.zeros(9), tmp_path / "losses", {})
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]
    save_losses(np.arange(9), tmp_path / "losses", {})
    assert np.array_equal(np.fromfile(tmp_path / "losses", "<f4"), np.arange(9))
    assert json.loads((tmp_path / "losses.json").read_text())["count"] == 9


def test_a_text_that_has_no_space_is_said_so_and_is_quiet_afterwards(tmp_path):
    language = Language(byte_vocabulary())
    writer = ContinuationWriter(tmp_path / "1.txt", "abc", decoder(language, "abc", np.frombuffer(b"abc", "u1")), False)
    with largest_file(5), pytest.raises(UserError, match=r"1\.txt is full .*hydra\.run\.dir"):
        for token in b"defgh":
            writer.add(token, 0.0)
    assert (tmp_path / "1.txt").read_bytes() == b"abcde"
    with largest_file(5):
        writer.file.close()  # nothing is left that could fail, here or at the end of the process

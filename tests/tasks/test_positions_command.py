"""Pieces and losses by position from the outside: files, refusals, several processes, sweeps."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from tests.commands import looks_like_a_picture, make_home, run, train

pytestmark = pytest.mark.slow
EVAL = ["task=eval", "checkpoint=trained", "trainer.precision=fp64", "eval.max_tokens=300"]


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A working directory with a run in it, `trained`."""
    folder = make_home(tmp_path_factory.mktemp("home"))
    train(folder, "hydra.run.dir=trained", "eval.by_position=true", "eval.piece_len=100")
    return folder


def results_of(run_dir: Path) -> dict:
    return json.loads((run_dir / "results.json").read_text())


def table_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def test_a_training_run_ends_with_its_losses_by_position(home):
    table = table_of(home / "trained/positions.csv")
    assert sum(int(row["targets"]) for row in table) == results_of(home / "trained")["tokens"]
    assert (int(table[-1]["last"]), results_of(home / "trained")["eval"]["piece_len"]) == (99, 100)


def test_the_table_is_that_of_the_saved_losses(home):
    words = ["eval.piece_len=70", "eval.by_position=true", "eval.save_losses=losses", "hydra.run.dir=one"]
    run(home, *EVAL, *words)
    losses, table = np.fromfile(home / "one/losses", "<f4"), table_of(home / "one/positions.csv")
    for row in table:
        pieces = [losses[start:][int(row["first"]) : int(row["last"]) + 1] for start in range(0, 300, 70)]
        pieces = [piece for piece in pieces if len(piece)]
        assert (int(row["pieces"]), int(row["targets"])) == (len(pieces), sum(map(len, pieces)))
        assert float(row["loss"]) == pytest.approx(np.concatenate(pieces).mean(), rel=1e-5)
        assert float(row["bpc"]) == pytest.approx(float(row["loss"]) / np.log(2))
    assert looks_like_a_picture(home / "one/positions.png")


def test_several_processes_write_the_one_process_table(home):
    words = ["eval.piece_len=70", "eval.by_position=true"]
    run(home, *EVAL, *words, "hydra.run.dir=alone", "eval.batch_size=3")
    run(home, *EVAL, *words, "hydra.run.dir=ours", "trainer.devices=2")
    expected, found = (table_of(home / name / "positions.csv") for name in ("alone", "ours"))
    assert len(found) == len(expected) and results_of(home / "ours")["tokens"] == 300
    for row, reference in zip(found, expected):
        assert {key: float(value) for key, value in row.items()} == pytest.approx(
            {key: float(value) for key, value in reference.items()}, rel=1e-10
        )


def test_the_table_is_of_the_last_evaluation_in_the_directory(home):
    words = [*EVAL, "hydra.run.dir=again"]
    run(home, *words, "eval.by_position=true")
    assert {row["standard_error"] for row in table_of(home / "again/positions.csv")} == {""}
    assert "Already scored" in run(home, *words, "eval.by_position=true")
    assert "Already scored" in run(home, *words), "the same losses"
    assert (home / "again/positions.csv").exists()
    run(home, *words, "eval.max_tokens=100")
    assert not list((home / "again").glob("positions.*"))


def test_what_has_no_meaning_with_pieces_is_said(home):
    printed = run(home, *EVAL, "eval.piece_len=50", "eval.burn_in=none", "hydra.run.dir=burnt")
    assert "eval.burn_in=none has no effect" in printed
    printed = run(home, *EVAL, "eval.piece_len=50", "eval/dynamic=sgd", code=1)
    assert "Error: eval.piece_len=50 cannot be combined with eval/dynamic" in printed
    assert "Error: eval.piece_len=0 must be 1 or more" in run(home, *EVAL, "eval.piece_len=0", code=1)


def test_a_sweep_ends_with_one_table_and_one_figure_of_all_curves(home):
    words = ["eval.piece_len=40,300", "eval.by_position=true", "hydra.sweep.dir=sweep"]
    printed = run(home, "-m", *EVAL, *words)
    joined = table_of(home / "sweep/sweep_positions.csv")
    members = [table_of(home / f"sweep/{number}/positions.csv") for number in (0, 1)]
    lengths = [row.pop("eval.piece_len") for row in joined]
    assert lengths == ["40"] * len(members[0]) + ["300"] * len(members[1])
    for row, expected in zip(joined, [*members[0], *members[1]], strict=True):
        assert {key: value and float(value) for key, value in row.items()} == {
            key: value and float(value) for key, value in expected.items()
        }
    assert looks_like_a_picture(home / "sweep/sweep_positions.png") and "sweep_positions.png" in printed

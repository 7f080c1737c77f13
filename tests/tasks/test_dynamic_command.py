"""Dynamic evaluation from the outside: numbers of its own in results.json and sweep.csv, beside the static ones."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import ROOT, environment, looks_like_a_picture, make_home, run, train

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A working directory with a run in it, `trained`."""
    folder = make_home(tmp_path_factory.mktemp("home"))
    printed = train(folder, "hydra.run.dir=trained", "eval/dynamic=sgd")
    assert "eval/dynamic=sgd has no effect with task=train" in printed
    return folder


def results_of(run_dir: Path) -> dict:
    return json.loads((run_dir / "results.json").read_text())


def test_a_sweep_compares_dynamic_numbers_and_leaves_the_static_ones_alone(home):
    static = results_of(home / "trained")
    assert "dynamic" not in static
    words = ["eval/dynamic=sgd,rms", "eval.dynamic.lr=1e-5,1e-2", "hydra.sweep.dir=sweep"]
    printed = run(home, "-m", "task=eval", "checkpoint=trained", *words)
    rows = list(csv.DictReader((home / "sweep/sweep.csv").read_text().splitlines()))
    assert {float(row["loss"]) for row in rows} == {static["loss"]}
    losses = [float(row["dynamic_loss"]) for row in rows]
    assert len(set(losses)) == 4 and static["loss"] not in losses
    (marked,) = (line for line in printed.splitlines() if line.endswith("<- best"))
    best = rows[losses.index(min(losses))]
    assert marked.split()[:2] == [best["eval/dynamic"], best["eval.dynamic.lr"]]
    assert looks_like_a_picture(home / "sweep/sweep.png")
    results = results_of(home / "sweep/0")
    assert results["dynamic"].items() >= {"name": "sgd", "lr": 1e-5, "batch_size": 1, "tgt_len": 32}.items()
    assert results["dynamic_bpc"] > 0 and results["eval"]["batch_size"] > 1


def test_in_several_processes_one_computes_and_the_number_is_the_same(home):
    words = ["task=eval", "checkpoint=trained", "eval/dynamic=rms", "trainer.precision=fp64"]
    run(home, *words, "hydra.run.dir=alone")
    printed = run(home, *words, "hydra.run.dir=ours", "trainer.devices=2")
    assert "trainer.devices=2 has no effect" in printed
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(ROOT / "run.py")]
    subprocess.run([*start, *words, "hydra.run.dir=torchrun"], cwd=home, env=environment(home), check=True)
    expected, *found = (results_of(home / name) for name in ("alone", "ours", "torchrun"))
    assert all(each[key] == expected[key] for each in found for key in ("loss", "dynamic_loss", "dynamic", "tokens"))


def test_a_text_of_ones_own_is_scored_dynamically_as_the_split_of_its_content(home):
    words = ["task=eval", "checkpoint=trained", "eval/dynamic=sgd"]
    run(home, *words, "hydra.run.dir=split")
    run(home, *words, "hydra.run.dir=own", "data=text", "data.path=text/test.txt")
    own, split = (results_of(home / name) for name in ("own", "split"))
    assert own["dynamic_loss"] == split["dynamic_loss"] and own["split"] == "text"


def test_another_training_text_is_another_evaluation_where_its_gradients_count(home):
    words = ["task=eval", "checkpoint=trained", "eval/dynamic=rms", "eval.max_tokens=99", "hydra.run.dir=rms"]
    train_text = home / "text/train.txt"
    content = train_text.read_text()
    run(home, *words)
    assert "Already scored" in run(home, *words)
    train_text.write_text(content[::-1])
    try:
        assert "Already scored" not in run(home, *words)
    finally:
        train_text.write_text(content)

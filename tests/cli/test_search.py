"""hydra/sweeper=optuna: a real search of a few trials, of which some fail."""

import csv
import json

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from tbptt.cli import search
from tbptt.cli.config import register
from tbptt.errors import UserError
from tests.commands import FAULTS, SMALL, looks_like_a_picture, make_home, run
from tests.helpers import CONF

WORDS = [*SMALL, "trainer.max_steps=3", "scheduler.warmup_steps=1", "hydra/sweeper=optuna"]


@pytest.mark.slow
def test_a_search_goes_on_after_failed_trials_and_when_it_is_repeated(tmp_path):
    home = make_home(tmp_path)
    space = ["optimizer.lr=tag(log,interval(1e-4,1e-1))", "model.n_head=2,-3", "hydra.sweep.dir=search"]
    run(home, "-m", *WORDS, *space, "hydra.sweeper.n_trials=3")
    first = (home / "search/sweep.csv").read_text()
    printed = run(home, "-m", *WORDS, *space, "hydra.sweeper.n_trials=4")
    assert printed.count("This run is finished") == first.count(",done,")
    text = (home / "search/sweep.csv").read_text()
    assert text.startswith(first), "the same values, and the results of the same runs"
    rows = list(csv.DictReader(text.splitlines()))
    ended = {"2": "done", "-3": "failed: model.n_head=-3 must be 1 or more"}
    assert [row["status"] for row in rows] == [ended[row["model.n_head"]] for row in rows]
    assert {row["model.n_head"] for row in rows} == set(ended), "the test is about both"
    losses = {
        row["optimizer.lr"]: json.loads((home / f"search/{number}/results.json").read_text())["train"][
            "best_valid_loss"
        ]
        for number, row in enumerate(rows)
        if row["status"] == "done"
    }
    best = min(losses, key=losses.__getitem__)
    found = OmegaConf.load(home / "search/optimization_results.yaml")
    assert found.best_params == {"optimizer.lr": float(best), "model.n_head": 2} and found.best_value == losses[best]
    assert f"Found: optimizer.lr={best} model.n_head=2" in printed and looks_like_a_picture(home / "search/sweep.png")


@pytest.mark.slow
def test_a_pruned_trial_is_no_end_of_the_search(tmp_path):
    home, words = make_home(tmp_path), ["optimizer.lr=interval(1e-4,1e-1)", "hydra.sweeper.n_trials=2"]
    environment = {"FAULT": "0 1 prune", "PYTHONPATH": FAULTS, "MARK": str(tmp_path / "pruned")}
    printed = run(home, "-m", *WORDS, *words, "hydra.sweep.dir=search", **environment)
    rows = list(csv.DictReader((home / "search/sweep.csv").read_text().splitlines()))
    assert [row["status"].partition(":")[0] for row in rows] == ["failed", "done"]
    assert "pruned by a test" in rows[0]["status"] and f"Found: optimizer.lr={rows[1]['optimizer.lr']} " in printed


@pytest.mark.slow
def test_a_range_whose_ends_are_exchanged_is_one_sentence(tmp_path):
    home, reversed_range = make_home(tmp_path), "optimizer.lr=interval(1e-2,1e-4)"
    printed = run(home, *WORDS, reversed_range, "hydra.sweep.dir=search", code=1)  # needs no -m
    (said,) = [line for line in printed.splitlines() if line.startswith("Error: ")]
    assert "hydra/sweeper=optuna cannot search this" in said and "low=0.01, high=0.0001" in said
    assert "Traceback" not in printed


@pytest.mark.slow
def test_a_search_without_any_loss_is_one_sentence(tmp_path):
    home = make_home(tmp_path)
    printed = run(home, "-m", *WORDS, "model.n_head=-1,-2", "hydra.sweeper.n_trials=1", code=1)
    assert "Error: no trial of the search has ended with a loss" in printed and "Traceback" not in printed


def composed(*words: str):
    register()
    with initialize_config_dir(str(CONF), version_base=None):
        return compose("config", ["hydra/sweeper=optuna", *words], return_hydra_config=True)


@pytest.mark.parametrize("sampler", ["tpe", "random", "cmaes", "grid"])
def test_every_sampler_fits(sampler):
    sweeper = composed(f"hydra/sweeper/sampler={sampler}", "hydra.sweeper.n_trials=7", "seed=5").hydra.sweeper
    assert sweeper.n_trials == 7 and sweeper.direction == "minimize"
    assert sampler != "tpe" or sweeper.sampler.seed == 5


def test_a_missing_package_is_one_sentence(monkeypatch):
    config = composed()
    search.check_sweeper(config)
    monkeypatch.setattr(search, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[optuna\]'"):
        search.check_sweeper(config)

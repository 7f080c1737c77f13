"""TensorBoard's own reader finds what metrics.jsonl has, every step once, however the run was interrupted."""

import json
import shutil

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tbptt.errors import UserError
from tbptt.report.config import LoggerConfig, WandbMode
from tbptt.report.logger import open_loggers
from tbptt.report.metrics import named_numbers, read_metrics
from tests.commands import SMALL, make_home, run, train

STEPS = list(range(1, 13))


def read(run_dir) -> EventAccumulator:
    found = EventAccumulator(str(run_dir / "tensorboard"), size_guidance={"scalars": 0, "images": 0, "tensors": 0})
    return found.Reload()


def points(run_dir) -> dict[str, list[tuple[int, float]]]:
    found = read(run_dir)
    return {name: [(x.step, x.value) for x in found.Scalars(name)] for name in found.Tags()["scalars"]}


def text(run_dir, name: str) -> str:
    *_, event = read(run_dir).Tensors(f"{name}/text_summary")  # of a repeated step, this reader keeps both texts
    return event.tensor_proto.string_val[0].decode()


@pytest.mark.parametrize("resumed", [0, 5, 8, 12])
def test_a_killed_run_that_resumes_shows_every_step_once(tmp_path, resumed):
    for start, end, loss in ((0, 8, 2.0), (min(resumed, 8), 12, 1.0)):
        (logger,) = open_loggers(LoggerConfig(tensorboard=True), tmp_path, start, {})
        for step in range(start + 1, end + 1):
            logger.write({"step": step, "loss": loss, "bpc": None})  # and is killed: never closed
    kept = min(resumed, 8)
    assert points(tmp_path) == {"train/loss": [(step, 2.0 if step <= kept else 1.0) for step in STEPS]}


@pytest.mark.slow
def test_a_run_and_its_samples_for_two_loggers_at_once(tmp_path):
    home = make_home(tmp_path)
    train(home, "logger=tensorboard", "hydra.run.dir=run")
    run_dir = home / "run"
    shutil.rmtree(run_dir / "checkpoints/step_00000020")  # as if killed before it was written
    (run_dir / "results.json").unlink()
    both = ["logger=[wandb,tensorboard]", "logger.mode=offline"]
    train(home, *both, "hydra.run.dir=run", "eval.by_position=true")
    expected: dict[str, list] = {}
    for record in read_metrics(run_dir / "metrics.jsonl"):
        for name, value in named_numbers(record).items():
            if value is not None:
                expected.setdefault(name, []).append((record["step"], pytest.approx(value, rel=1e-6)))
    assert points(run_dir) == expected and len(expected["train/loss"]) == 4
    assert [event.step for event in read(run_dir).Images("curves")] == [20]
    assert {"curves", "positions"} <= set(read(run_dir).Tags()["images"])
    assert json.loads(text(run_dir, "results"))["train"]["steps"] == 20
    assert len(list((run_dir / "wandb").glob("offline-run-*"))) == 1
    shown = {path.name.split("_")[0] for path in (run_dir / "wandb").rglob("media/*/*")}
    assert shown == {"curves", "positions", "results"}
    words = ["checkpoint=run", "prompt=ab*c*", "generate.length=5", "hydra.run.dir=said", "logger=tensorboard"]
    run(home, "task=generate", *words)
    sample = (home / "said/generated/1.txt").read_text()
    assert text(home / "said", "generated/1").splitlines() == [f"    {line}" for line in sample.splitlines()]


def test_a_sweep_shows_its_table_and_figure(tmp_path):
    home = make_home(tmp_path)
    run(home, "-m", *SMALL, "seed=1,2", "trainer.max_steps=2", "logger=tensorboard", "hydra.sweep.dir=seeds")
    assert text(home / "seeds", "sweep").split() == (home / "seeds/sweep.csv").read_text().split()
    assert read(home / "seeds").Tags()["images"] == ["sweep"] and "train/loss" in points(home / "seeds/1")


def test_a_missing_package_and_a_setting_without_its_logger_are_refused(monkeypatch):
    monkeypatch.setattr("tbptt.report.config.find_spec", lambda name: None)
    LoggerConfig(wandb=True, mode=WandbMode.disabled).check()
    with pytest.raises(UserError, match=r"pip install -e '\.\[tensorboard\]'"):
        LoggerConfig(tensorboard=True).check()
    with pytest.raises(UserError, match=r"logger\.project is a setting of wandb"):
        LoggerConfig(project="mine").check()

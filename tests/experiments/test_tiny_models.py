"""The table of small models: seeds of one model together, only finished training runs, speeds where there are any."""

import json

from experiments.tiny_models import MODELS, by_model, draw, read_runs, table
from tests.helpers import CONF


def write_run(folder, model: str, seed: int, bpc: float, task: str = "train") -> None:
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra/config.yaml").write_text(f"seed: {seed}\n")
    (folder / ".hydra/hydra.yaml").write_text(f"hydra:\n  runtime:\n    choices:\n      model: {model}\n")
    results = {"task": task, "split": "test", "tokens": 90, "bpc": bpc, "params": 1234, "compressors": {"zlib": 2.0}}
    (folder / "results.json").write_text(json.dumps(results | {"train": {"steps": 4, "tokens": 4096}}))
    lines = [{"step": 2, "tokens": 2048, "bpc": bpc + 1}]
    lines += [{"step": step, "tokens": 1024 * step, "split": "valid", "bpc": bpc + 1 / step} for step in (2, 4)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_runs_below_a_folder_are_told_by_model_and_drawn(tmp_path):
    for i, (model, seed, bpc) in enumerate([("lstm", 2, 2.5), ("gdn_tiny", 1, 1.5), ("lstm", 1, 2.25)]):
        write_run(tmp_path / f"sweep/{i}", model, seed, bpc)
    write_run(tmp_path / "eval", "lstm", 1, 9.0, task="eval")
    (tmp_path / "unfinished/.hydra").mkdir(parents=True)
    runs = read_runs(tmp_path)
    assert {model: [run["seed"] for run in mine] for model, mine in by_model(runs).items()} == {
        "gdn_tiny": [1], "lstm": [1, 2],
    }  # fmt: skip
    assert json.loads(json.dumps(runs)) == runs
    lines = table(runs, {"lstm": 12_345.0}).splitlines()
    assert lines[2] == "| gdn_tiny | 1,234 | 1 | 1.500 |  | 1.500 to 1.500 | 4,096 | 4 |  |"
    assert lines[3] == "| lstm | 1,234 | 2 | 2.375 | 0.177 | 2.250 to 2.500 | 4,096 | 4 | 12,345 |"
    draw(runs, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_the_models_that_are_timed_exist():
    assert all((CONF / f"model/{model}.yaml").is_file() for model in MODELS)

"""Muon against AdamW at equal steps, each at the rates that a search by Optuna found for it.

    python -m experiments.muon runs/muon             # search, train three seeds, table and figure
    python -m experiments.muon runs/muon --trials 2 --steps 5 --seeds 1   # a trial

For each model and optimizer, `hydra/sweeper=optuna` searches the rates (of Muon two: that of its matrices, and AdamW's
for the rest) with one seed; the best are then trained with seeds of their own, for as many steps on the same cosine
schedule: rates that were found in shorter runs can be too high for longer ones. All is done by commands that anyone can
type; finished runs are not repeated.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import Any

import matplotlib
from omegaconf import OmegaConf

from experiments.length_generalisation import on_every_core
from tbptt.report.metrics import read_metrics

matplotlib.use("Agg")
from matplotlib import pyplot as plt

ROOT = Path(__file__).resolve().parents[1]
LOG, FIGURE = ROOT / "experiments/logs/muon.jsonl", ROOT / "experiments/figures/muon.png"
MODELS = ("txl_tiny", "gdn_tiny")
RATE = "tag(log,interval(3e-4,3e-2))"
SPACES = {
    "adamw": {"optimizer.lr": RATE},
    "muon": {"optimizer.lr": RATE, "optimizer.adam_lr": RATE},
}


def run(folder: Path, *words: str) -> None:
    """One sweep of run.py on one core, into `folder`, with what it prints in `folder`.log."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "run.py", "-m", f"hydra.sweep.dir={folder}", *words]
    with open(f"{folder}.log", "w", encoding="utf-8") as log:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT)
    if done.returncode:
        raise SystemExit(f"Error: {' '.join(command)} failed: see {folder}.log")


def length(steps: int, validations: int) -> list[str]:
    words = [f"trainer.{key}={steps}" for key in ("max_steps", "save_every")]
    words += [f"trainer.eval_every={max(1, steps // validations)}", "trainer.eval_tokens=20000"]
    return [*words, f"scheduler.warmup_steps={steps // 20}"]


def compare(runs: Path, model: str, optimizer: str, options: argparse.Namespace) -> None:
    """Search the rates of an optimizer for a model, then train with the best of them."""
    chosen = [f"model={model}", f"optimizer={optimizer}"]
    search = runs / f"search-{model}-{optimizer}"
    space = [f"{key}={value}" for key, value in SPACES[optimizer].items()]
    trials = [
        "hydra/sweeper=optuna",
        f"hydra.sweeper.n_trials={options.trials}",
        "hydra.sweeper.sampler.n_startup_trials=4",
    ]
    run(search, *chosen, *trials, *space, "seed=100", *length(options.steps, 1), "eval.max_tokens=1000")
    best = found(search)["best_params"]
    rates = [f"{key}={value}" for key, value in best.items()]
    run(
        runs / f"{model}-{optimizer}",
        *chosen,
        *rates,
        f"seed={','.join(map(str, options.seeds))}",
        *length(options.steps, 4),
    )


def found(search: Path) -> dict[str, Any]:
    """What the sweeper wrote of its search."""
    results = OmegaConf.to_container(OmegaConf.load(search / "optimization_results.yaml"))
    assert isinstance(results, dict)
    return {"best_params": results["best_params"], "best_value": results["best_value"]}


def rows(runs: Path, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One row for every model, optimizer and seed: rates, losses in bits per byte, and the validation curve."""
    for model in MODELS:
        for optimizer in SPACES:
            searched = found(runs / f"search-{model}-{optimizer}")
            for number, seed in enumerate(options.seeds):
                folder = runs / f"{model}-{optimizer}" / str(number)
                results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
                valid = [line for line in read_metrics(folder / "metrics.jsonl") if line.get("split") == "valid"]
                yield {
                    "model": model,
                    "optimizer": optimizer,
                    "rates": searched["best_params"],
                    "trials": options.trials,
                    "steps": options.steps,
                    "seed": seed,
                    "test_bpc": results["bpc"],
                    "valid_bpc": results["train"]["best_valid_loss"] / math.log(2),
                    "tokens_per_second": results["train"]["tokens_per_second"],
                    "curve": [(line["step"], line["bpc"]) for line in valid],
                }


def table(found: list[dict[str, Any]]) -> str:
    """Means over the seeds, with the least and the most."""
    lines = ["| model | optimizer | rates | validation | test | tokens/s |", "| --- | --- | --- | ---: | ---: | ---: |"]
    for model in MODELS:
        for optimizer in SPACES:
            mine = [row for row in found if row["model"] == model and row["optimizer"] == optimizer]
            rates = ", ".join(
                f"{key.removeprefix('optimizer.')} {value:.2g}" for key, value in mine[0]["rates"].items()
            )
            cells = []
            for key in ("valid_bpc", "test_bpc"):
                values = [row[key] for row in mine]
                cells.append(f"{mean(values):.3f} ({min(values):.3f} to {max(values):.3f})")
            speed = mean(row["tokens_per_second"] for row in mine)
            lines.append(f"| {model} | {optimizer} | {rates} | {' | '.join(cells)} | {speed:,.0f} |")
    return "\n".join(lines)


def draw(found: list[dict[str, Any]], file: Path) -> None:
    """One panel for each model, the mean validation curve of each optimizer, bands from the least to the most."""
    figure, panels = plt.subplots(1, len(MODELS), figsize=(5 * len(MODELS), 4), layout="constrained")
    for panel, model in zip(panels, MODELS):
        for index, optimizer in enumerate(SPACES):
            curves = [row["curve"] for row in found if row["model"] == model and row["optimizer"] == optimizer]
            steps = [step for step, _ in curves[0]]
            bits = list(zip(*([bpc for _, bpc in curve] for curve in curves)))
            panel.plot(steps, list(map(mean, bits)), color=f"C{index}", label=optimizer, marker=".")
            panel.fill_between(steps, list(map(min, bits)), list(map(max, bits)), color=f"C{index}", alpha=0.2, lw=0)
        panel.set(title=model, xlabel="updates", ylabel="bits per byte, validation")
        panel.set_yscale("log")
        panel.yaxis.set_major_formatter("{x:.1f}")
        panel.yaxis.set_minor_formatter("{x:.1f}")
        panel.grid(alpha=0.3, which="both")
        panel.legend()
    figure.savefig(file, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, help="the folder of all runs")
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    options = parser.parse_args()
    runs = options.runs.resolve()
    on_every_core(compare, [(runs, model, optimizer, options) for model in MODELS for optimizer in SPACES])
    collected = list(rows(runs, options))
    LOG.write_text("".join(f"{json.dumps(row)}\n" for row in collected), encoding="utf-8")
    draw(collected, FIGURE)
    print(table(collected))


if __name__ == "__main__":
    main()

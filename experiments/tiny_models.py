"""The small models side by side: bits per byte over seeds, validation curves, and training speeds in turns.

    python run.py -m model=gdn_tiny,mamba2_tiny,xlstm_tiny,griffin_tiny,hybrid_tiny,txl_tiny,lstm seed=1,2,3
    python -m experiments.tiny_models --speed          # a minute; write logs/tiny_models_speed.json
    python -m experiments.tiny_models runs/sweep-...   # the table, logs/tiny_models.jsonl, figures/tiny_models.png

Reads all finished training runs below the folder; those of one model are its seeds. Losses are of the test split, by
the weights that were best on the validation split. Speeds are timed apart from the runs, which may share a machine:
every model trains in a process of its own, some updates of each in turns (see experiments.compare). The log has the
results and all metrics of every run, one line a run. Without a folder, table and figure are made of the log. All of
them lie in this folder, or in --folder.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

import matplotlib
from omegaconf import OmegaConf

from experiments.compare import HERE as ROOT
from experiments.compare import version
from experiments.throughput import composed_with
from tbptt.report.metrics import METRICS, read_metrics
from tbptt.report.results import RESULTS, read_results

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.ticker import EngFormatter

HERE = Path(__file__).parent
MODELS = ("gdn_tiny", "mamba2_tiny", "xlstm_tiny", "griffin_tiny", "hybrid_tiny", "txl_tiny", "lstm")
LOG, SPEEDS, FIGURE = "logs/tiny_models.jsonl", "logs/tiny_models_speed.json", "figures/tiny_models.png"
VOCABULARY = 256


def read_runs(folder: Path) -> list[dict[str, Any]]:
    """What is kept of each finished training run below the folder, by model and seed."""
    runs = []
    for run in sorted(path.parent for path in folder.rglob(RESULTS)):
        results = read_results(run)
        if results["task"] == "train":
            choices = OmegaConf.load(run / ".hydra/hydra.yaml").hydra.runtime.choices
            config = OmegaConf.load(run / ".hydra/config.yaml")
            runs.append(
                {
                    "model": choices.model,
                    "seed": config.seed,
                    **{key: results[key] for key in ("split", "tokens", "bpc", "params", "train", "compressors")},
                    "metrics": read_metrics(run / METRICS),
                }
            )
    return sorted(runs, key=lambda run: (run["model"], run["seed"]))


def by_model(runs: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """From the best model to the worst."""
    models = dict.fromkeys(run["model"] for run in runs)
    grouped = {model: [run for run in runs if run["model"] == model] for model in models}
    return dict(sorted(grouped.items(), key=lambda item: mean(run["bpc"] for run in item[1])))


def table(runs: list[dict[str, Any]], speeds: dict[str, float]) -> str:
    """Markdown. `speeds` are tokens a second, of the models that were timed."""
    lines = [
        "| model | parameters | seeds | bits per byte, mean | standard deviation | least to most | training tokens "
        "| updates | tokens/s |",
        "| --- |" + " ---: |" * 8,
    ]
    for model, mine in by_model(runs).items():
        bits = [run["bpc"] for run in mine]
        (params,), (tokens,), (steps,) = (
            {*values} for values in zip(*((r["params"], r["train"]["tokens"], r["train"]["steps"]) for r in mine))
        )
        spread = f"{stdev(bits):.3f}" if len(bits) > 1 else ""
        speed = f"{speeds[model]:,.0f}" if model in speeds else ""
        lines.append(
            f"| {model} | {params:,} | {len(mine)} | {mean(bits):.3f} | {spread} | {min(bits):.3f} to {max(bits):.3f} "
            f"| {tokens:,} | {steps:,} | {speed} |"
        )
    return "\n".join(lines)


def draw(runs: list[dict[str, Any]], file: Path) -> None:
    """Validation curves over training tokens: a thick line the mean of a model's seeds, thin ones the seeds."""
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    for index, (model, mine) in enumerate(by_model(runs).items()):
        curves = [[(m["tokens"], m["bpc"]) for m in run["metrics"] if m.get("split") == "valid"] for run in mine]
        for curve in curves:
            axes.plot(*zip(*curve), color=f"C{index}", lw=0.7, alpha=0.5)
        shared = [points[0][0] for points in zip(*curves)]
        means = [mean(bits for _, bits in points) for points in zip(*curves)]
        axes.plot(shared, means, color=f"C{index}", lw=2, marker="o", ms=4, label=f"{model}, {mine[0]['params']:,}")
    axes.set(xlabel="training tokens (bytes)", ylabel="bits per byte, validation")
    axes.xaxis.set_major_formatter(EngFormatter())
    axes.grid(alpha=0.3)
    axes.legend(title="model, parameters")
    figure.savefig(file, dpi=120)
    plt.close(figure)


def measure_speeds(models: tuple[str, ...], turns: int) -> dict[str, float]:
    """Tokens a second of each model: its updates by the median of the turns."""
    configs = {model: composed_with([f"model={model}"]) for model in models}
    workers = {model: version(ROOT, [f"model={model}"], VOCABULARY) for model in models}
    ms: dict[str, list[float]] = {model: [] for model in models}
    for _ in range(turns):
        for model, worker in workers.items():
            ms[model].append(worker.turn())
    for worker in workers.values():
        worker.process.kill()
    return {
        model: round(1000 * config.data.batch_size * config.model.tgt_len / median(ms[model]))
        for model, config in configs.items()
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="?", type=Path)
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--turns", type=int, default=8)
    parser.add_argument("--folder", type=Path, default=HERE)
    options = parser.parse_args()
    log, speeds_file, figure = (options.folder / name for name in (LOG, SPEEDS, FIGURE))
    for file in (log, figure):
        file.parent.mkdir(parents=True, exist_ok=True)
    if options.speed:
        speeds_file.write_text(json.dumps(measure_speeds(MODELS, options.turns)) + "\n", encoding="utf-8")
        print(speeds_file.read_text(encoding="utf-8"))
    if options.runs:
        runs = read_runs(options.runs)
        if not runs:
            parser.error(f"{options.runs} has no finished training runs in it")
        log.write_text("".join(json.dumps(run) + "\n" for run in runs), encoding="utf-8")
    if log.exists():
        kept = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
        speeds = json.loads(speeds_file.read_text(encoding="utf-8")) if speeds_file.exists() else {}
        print(table(kept, speeds))
        draw(kept, figure)

"""Documents that reset the state against state that leaks from one into the next: the loss by position in a document.

    python -m experiments.document_reset runs/document_reset           # train, evaluate, table and figure
    python -m experiments.document_reset runs/document_reset --steps 4 --seeds 1   # a trial

A Gated DeltaNet and a hybrid learn the files of the default corpus as documents, in shuffled order, in two ways that
differ in one setting: trainer.reset_state=document, or never. Both are then scored on the test split with the state
reset at documents, as a model is used on a text by itself; the second also as it was trained, with the state carried
across documents. Runs that are finished are not repeated. Curves are means over the seeds; bands reach from the least
to the most.
"""

from __future__ import annotations

import argparse
import csv
import math
from collections.abc import Iterator
from pathlib import Path
from statistics import mean

import matplotlib
import numpy as np

from experiments.length_generalisation import label_positions, on_every_core, plot_seeds, run_task, write_table
from tbptt.data.document_lanes import find_documents
from tbptt.evaluation.positions import PositionLoss, losses_by_position

matplotlib.use("Agg")
from matplotlib import pyplot as plt

HERE = Path(__file__).resolve().parent
TABLE, FIGURE = HERE / "logs/document_reset.csv", HERE / "figures/document_reset.png"
SMALL = ["model.d_model=96", "model.d_inner=256"]
MODELS = {
    "Gated DeltaNet": ["model=gdn_tiny", "model.n_layer=3", *SMALL],
    "hybrid": ["model=hybrid_tiny", "model.layers=[gated_delta,gated_delta,attention]", "model.n_layer=3", *SMALL],
}
DATA = ["data=stdlib", "data.documents=true"]
READINGS = {  # how it was trained, and how it is read
    "reset, read with reset": ("document", "document"),
    "leak, read with reset": ("never", "document"),
    "leak, read with leak": ("never", "never"),
}
SPANS = [(0, 64), (64, 512), (512, 4_096), (4_096, 1 << 30)]


def folder_of(runs: Path, model: str, trained: str, seed: int) -> Path:
    return runs / f"{model.replace(' ', '_')}-{trained}-{seed}"


def reading_of(runs: Path, model: str, reading: str, seed: int) -> Path:
    trained, read = READINGS[reading]
    return Path(f"{folder_of(runs, model, trained, seed)}-read-{read}")


def train_and_read(runs: Path, model: str, seed: int, steps: int) -> None:
    """Both ways of training one model with one seed, and all readings, one after the other."""
    for trained in ("document", "never"):
        words = [*MODELS[model], *DATA, "data.order=shuffled", f"trainer.reset_state={trained}", f"seed={seed}"]
        words += [f"trainer.{key}={steps}" for key in ("max_steps", "eval_every", "save_every")]
        run_task(folder_of(runs, model, trained, seed), [*words, f"scheduler.warmup_steps={steps // 20}"])
    for reading, (trained, read) in READINGS.items():
        words = ["task=eval", f"checkpoint={folder_of(runs, model, trained, seed)}/checkpoints/last"]
        words += [f"eval.reset_state={read}", "eval.save_losses=losses"]
        run_task(reading_of(runs, model, reading, seed), words)


def read_curves(runs: Path, seeds: list[int]) -> Iterator[dict[str, object]]:
    """A row for every model, reading and bucket of positions: bits per byte of each seed."""
    for model in MODELS:
        for reading in READINGS:
            tables = [losses_in_documents(reading_of(runs, model, reading, seed) / "losses") for seed in seeds]
            for buckets in zip(*tables, strict=True):
                one = buckets[0]
                row = {"model": model, "reading": reading, "first": one.first, "last": one.last}
                row |= {"targets": one.targets, "documents": one.pieces}
                yield row | {f"bpc_{seed}": bucket.loss / math.log(2) for seed, bucket in zip(seeds, buckets)}


def losses_in_documents(file: Path) -> list[PositionLoss]:
    """The losses of eval.save_losses by position in their document."""
    losses_N = np.fromfile(file, "<f4").astype(np.float64)
    with open(f"{file}.documents.csv", newline="", encoding="utf-8") as table:
        starts_D = np.array([int(row["first_target"]) for row in csv.DictReader(table)])
    return losses_by_position(losses_N, find_documents(starts_D, np.arange(len(losses_N)))[1])


def draw(rows: list[dict], seeds: list[int], file: Path) -> None:
    """One panel for each model, one curve for each reading."""
    figure, panels = plt.subplots(1, len(MODELS), figsize=(5 * len(MODELS), 4.2), layout="constrained", sharey=True)
    for panel, model in zip(panels, MODELS):
        for index, reading in enumerate(READINGS):
            mine = [row for row in rows if row["model"] == model and row["reading"] == reading and row["documents"] > 8]
            plot_seeds(panel, mine, seeds, color=f"C{index}", label=reading, ls="--" if index == 2 else "-")
        label_positions(panel, model, "position in the document, in bytes")
    panels[0].set_ylabel("bits per byte, test split")
    panels[-1].legend(fontsize="small", title="trained, then read")
    figure.savefig(file, dpi=110)
    plt.close(figure)


def table(rows: list[dict], seeds: list[int]) -> str:
    """Bits per byte, means over seeds and positions, in spans of positions and over all."""
    lines = ["| model | trained, then read |" + "".join(f" {low:,} to {high:,} |" for low, high in SPANS[:-1])]
    lines[0] += f" from {SPANS[-1][0]:,} | all |"
    lines.append("| --- | --- |" + " ---: |" * (len(SPANS) + 1))
    for model in MODELS:
        for reading in READINGS:
            mine, cells = [row for row in rows if row["model"] == model and row["reading"] == reading], []
            for low, high in [*SPANS, (0, SPANS[-1][1])]:
                inside = [row for row in mine if low <= row["first"] and row["last"] < high]
                targets = sum(row["targets"] for row in inside)
                values = [sum(row["targets"] * row[f"bpc_{s}"] for row in inside) / targets for s in seeds]
                cells.append(f"{mean(values):.3f} ({min(values):.3f} to {max(values):.3f})")
            lines.append(f"| {model} | {reading} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, help="the folder of all runs")
    parser.add_argument("--steps", type=int, default=1_000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    arguments = parser.parse_args()
    runs = arguments.runs.resolve()
    jobs = [(runs, model, seed, arguments.steps) for seed in arguments.seeds for model in MODELS]
    on_every_core(train_and_read, jobs)
    rows = list(read_curves(runs, arguments.seeds))
    write_table(rows, TABLE)
    draw(rows, arguments.seeds, FIGURE)
    print(table(rows, arguments.seeds))


if __name__ == "__main__":
    main()

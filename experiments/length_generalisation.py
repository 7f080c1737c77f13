"""Training on short segments, reading on: the loss by position far beyond the training length, by the way of training.

    python -m experiments.length_generalisation runs/length_generalisation           # train, evaluate, table and figure
    python -m experiments.length_generalisation runs/length_generalisation --steps 4 --seeds 1 --pieces 256   # a trial

Small Mamba-2, Gated DeltaNet and Transformer-XL models learn the bytes of the default corpus in segments of 64 tokens,
in ways that differ in three settings alone:

    ordinary         data.order=shuffled trainer.reset_state=segment     every segment from the empty state
    state passing    data.order=shuffled trainer.reset_state=never       text in random order, state carried
    truncated BPTT   data.order=sequential trainer.reset_state=epoch     text in order, state carried

and two ways that go on from the ordinary weights with a tenth of the steps of one of the others (after Buitrago Ruiz
and Gu 2025, arXiv 2507.02782). The test split is then read in pieces of --pieces tokens that start empty. Runs that are
finished are not repeated: the same command goes on where it was stopped. The table and every curve are means over the
seeds; bands reach from the least to the most.
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean

import matplotlib

from tbptt.report.positions import POSITIONS, read_positions

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

ROOT = Path(__file__).resolve().parents[1]
TABLE, FIGURE = (
    ROOT / "experiments/logs/length_generalisation.csv",
    ROOT / "experiments/figures/length_generalisation.png",
)
SEGMENT = 64
MODELS = {
    "mamba2": ["model=mamba2_tiny", "model.n_layer=4", "model.d_model=64", "model.mamba2.d_state=32"],
    "gated_delta": ["model=gdn_tiny", "model.n_layer=2", "model.d_model=64", "model.d_inner=160"],
    "transformer_xl": [
        "model=txl_tiny",
        "model.n_layer=2",
        "model.d_model=64",
        "model.d_inner=256",
        "model.mem_len=64",
    ],
}
PASSING = ["data.order=shuffled", "trainer.reset_state=never"]
TRUNCATED = ["data.order=sequential", "trainer.reset_state=epoch"]
WAYS = {
    "ordinary": ["data.order=shuffled", "trainer.reset_state=segment"],
    "state passing": PASSING,
    "truncated BPTT": TRUNCATED,
}
CONTINUED = {"ordinary, then state passing": PASSING, "ordinary, then truncated BPTT": TRUNCATED}


def run_task(folder: Path, words: list[str]) -> None:
    """One command of run.py on one core, with what it prints in `folder`.log."""
    command = [sys.executable, "run.py", f"hydra.run.dir={folder}", *words]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{folder}.log", "w", encoding="utf-8") as log:
        done = subprocess.run(
            command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=log, stderr=subprocess.STDOUT
        )
    if done.returncode:
        raise SystemExit(f"Error: {' '.join(command)} failed: see {folder}.log")


def on_every_core(work: Callable[..., None], jobs: Iterable[tuple]) -> None:
    """Call `work` with the arguments of every job, as many at a time as there are cores."""
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for done in [pool.submit(work, *job) for job in jobs]:
            done.result()


def write_table(rows: list[dict], file: Path) -> None:
    with open(file, "w", newline="", encoding="utf-8") as table:
        writer = csv.DictWriter(table, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def folder_of(runs: Path, model: str, way: str, seed: int) -> Path:
    return runs / f"{model}-{way.replace(', ', '-').replace(' ', '_')}-{seed}"


def training(runs: Path, model: str, way: str, seed: int, steps: int) -> list[str]:
    """The settings of one training run."""
    words = [*MODELS[model], f"model.tgt_len={SEGMENT}", f"seed={seed}", *(WAYS | CONTINUED)[way]]
    if way in CONTINUED:
        steps = max(1, steps // 10)
        words.append(f"checkpoint={folder_of(runs, model, 'ordinary', seed)}")
    words += [f"trainer.{key}={steps}" for key in ("max_steps", "eval_every", "save_every")]
    return [*words, f"scheduler.warmup_steps={steps // 20}"]


def train_and_read(runs: Path, model: str, seed: int, steps: int, pieces: int) -> None:
    """All ways of one model and seed, one after the other."""
    for way in WAYS | CONTINUED:
        folder = folder_of(runs, model, way, seed)
        run_task(folder, training(runs, model, way, seed, steps))
        read = ["task=eval", f"checkpoint={folder}/checkpoints/last", f"eval.piece_len={pieces}"]
        run_task(Path(f"{folder}-reading"), [*read, "eval.by_position=true"])


def read_curves(runs: Path, seeds: list[int]) -> Iterator[dict[str, object]]:
    """A row for every model, way and bucket of positions: bits per byte of each seed."""
    for model in MODELS:
        for way in WAYS | CONTINUED:
            folders = [Path(f"{folder_of(runs, model, way, seed)}-reading") for seed in seeds]
            tables = [read_positions(folder) for folder in folders]
            if not all(tables):
                raise SystemExit(f"Error: not all of {', '.join(map(str, folders))} have a {POSITIONS}")
            for buckets in zip(*tables, strict=True):
                row = {"model": model, "way": way, "first": int(buckets[0]["first"]), "last": int(buckets[0]["last"])}
                yield row | {f"bpc_{seed}": bucket["bpc"] for seed, bucket in zip(seeds, buckets)}


def plot_seeds(panel: Axes, rows: list[dict], seeds: list[int], color: str, key: str = "bpc", **style: str) -> None:
    """A value by position: the mean over the seeds, and a band from the least to the most."""
    x = [((row["first"] + 1) * (row["last"] + 1)) ** 0.5 for row in rows]
    values = [[row[f"{key}_{seed}"] for seed in seeds] for row in rows]
    panel.plot(x, [mean(each) for each in values], color=color, **style)
    panel.fill_between(x, *zip(*((min(each), max(each)) for each in values)), color=color, alpha=0.15, lw=0)


def label_positions(panel: Axes, title: str, xlabel: str) -> None:
    panel.set_xscale("log", base=2)
    panel.xaxis.set_major_formatter("{x:,.0f}")
    panel.set(title=title, xlabel=xlabel)
    panel.grid(alpha=0.3)


def draw(rows: list[dict], seeds: list[int], file: Path) -> None:
    """One panel for each model, one curve for each way."""
    figure, panels = plt.subplots(1, len(MODELS), figsize=(5 * len(MODELS), 4.5), layout="constrained", sharey=True)
    for panel, model in zip(panels, MODELS):
        for index, way in enumerate(WAYS | CONTINUED):
            mine = [row for row in rows if row["model"] == model and row["way"] == way and row["first"] >= 8]
            plot_seeds(panel, mine, seeds, color=f"C{index}", label=way, ls="--" if way in CONTINUED else "-")
        panel.axvline(SEGMENT, color="black", ls=":", lw=1)
        label_positions(panel, model, "tokens read since the state was empty")
    panels[0].set_ylabel("bits per byte, test split")
    panels[-1].legend(fontsize="small", title="trained by; dotted: segment length")
    figure.savefig(file, dpi=110)
    plt.close(figure)


def table(rows: list[dict], seeds: list[int]) -> str:
    """Bits per byte, means over seeds and positions: within the training length, just behind it, and far behind it."""
    longest = max(row["last"] for row in rows) + 1
    spans = [(SEGMENT // 2, SEGMENT), (2 * SEGMENT, 4 * SEGMENT), (longest // 2, longest)]
    lines = ["| model | trained by |" + "".join(f" {low:,} to {high:,} |" for low, high in spans)]
    lines.append("| --- | --- |" + " ---: |" * len(spans))
    for model in MODELS:
        for way in WAYS | CONTINUED:
            mine, cells = [row for row in rows if row["model"] == model and row["way"] == way], []
            for low, high in spans:
                inside = [row for row in mine if low <= row["first"] and row["last"] < high]
                weights = [row["last"] - row["first"] + 1 for row in inside]
                values = [sum(w * row[f"bpc_{s}"] for w, row in zip(weights, inside)) / sum(weights) for s in seeds]
                cells.append(f"{mean(values):.3f} ({min(values):.3f} to {max(values):.3f})")
            lines.append(f"| {model} | {way} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, help="the folder of all runs")
    parser.add_argument("--steps", type=int, default=1_500)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--pieces", type=int, default=64 * SEGMENT, help="tokens that are read from the empty state")
    arguments = parser.parse_args()
    runs = arguments.runs.resolve()
    jobs = [(runs, model, seed, arguments.steps, arguments.pieces) for seed in arguments.seeds for model in MODELS]
    on_every_core(train_and_read, jobs)
    rows = list(read_curves(runs, arguments.seeds))
    write_table(rows, TABLE)
    draw(rows, arguments.seeds, FIGURE)
    print(table(rows, arguments.seeds))


if __name__ == "__main__":
    main()

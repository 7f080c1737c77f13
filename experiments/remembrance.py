"""How much of a prediction is owed to what was read long before: effective remembrance, of trained runs.

    python -m experiments.length_generalisation runs/length_generalisation     # trains the runs
    python -m experiments.remembrance runs/length_generalisation               # table and figure

A model that has read the last n tokens of a text from the empty state predicts the next token; so does it after reading
--longest tokens. The total variation distance of the two distributions (0: the same, 1: no token in common) is what the
tokens before the last n still change, here in the mean over many places of the test split: EffRem_T(t) =
TV(q(.|x[0:T]), q(.|x[t:T])) with t = T - n (Buitrago Ruiz and Gu 2025, arXiv 2507.02782). Bands reach from the least to
the most of the seeds.

Shapes: N places, L tokens before each, T tokens of a segment, W words.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import Any

import matplotlib
import numpy as np
import torch
from torch import Tensor

from experiments.context_length import open_run
from experiments.length_generalisation import (
    CONTINUED,
    MODELS,
    ROOT,
    SEGMENT,
    WAYS,
    folder_of,
    label_positions,
    plot_seeds,
    write_table,
)
from tbptt.evaluation.score import evaluating
from tbptt.models.protocol import RecurrentModel

matplotlib.use("Agg")
from matplotlib import pyplot as plt

TABLE, FIGURE = ROOT / "experiments/logs/remembrance.csv", ROOT / "experiments/figures/remembrance.png"
SHOWN = (16, 64, 256, 1024)  # columns of the table


def texts_before(stream: np.ndarray, places: int, longest: int) -> Tensor:
    """The `longest` tokens before each of so many evenly spaced places of a text, (N, L)."""
    ends_N = np.linspace(longest, len(stream) - 1, places).astype(int)
    return torch.from_numpy(stream[ends_N[:, None] + np.arange(-longest, 0)].astype(np.int64))


@torch.no_grad()
def prediction(model: RecurrentModel, text_NL: Tensor, tgt_len: int) -> Tensor:
    """The distribution (N, W) of the token after the text, which is read from the empty state in segments."""
    state = model.initial_state(len(text_NL))
    for tokens_NT in text_NL.split(tgt_len, dim=1):
        log_probs_NTW, state = model.log_probs(tokens_NT, state)
    return log_probs_NTW[:, -1].exp()


def distances(model: RecurrentModel, text_NL: Tensor, lengths: list[int], tgt_len: int) -> list[float]:
    """The mean total variation distance between the predictions after so many last tokens and after all."""
    with evaluating(model):
        whole_NW = prediction(model, text_NL, tgt_len)
        parts = (prediction(model, text_NL[:, -length:], tgt_len) for length in lengths)
        return [((part_NW - whole_NW).abs().sum(-1) / 2).mean().item() for part_NW in parts]


def measure(runs: Path, model: str, way: str, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A row for every number of tokens read: the distance for each seed."""
    lengths, found = powers_of_two(options.longest), {}
    for seed in options.seeds:
        trained, corpus = open_run(str(folder_of(runs, model, way, seed) / "checkpoints/last"))
        text_NL = texts_before(corpus.splits["test"], options.places, options.longest)
        found[seed] = distances(trained.model, text_NL, lengths, SEGMENT)
    for index, length in enumerate(lengths):
        row = {"model": model, "way": way, "first": length - 1, "last": length - 1}
        yield row | {f"distance_{seed}": found[seed][index] for seed in options.seeds}


def powers_of_two(longest: int) -> list[int]:
    """1, 2, 4, ... below `longest`."""
    return [2**exponent for exponent in range((longest - 1).bit_length())]


def draw(rows: list[dict], seeds: list[int], file: Path) -> None:
    """One panel for each model, one curve for each way."""
    figure, panels = plt.subplots(1, len(MODELS), figsize=(5 * len(MODELS), 4.5), layout="constrained", sharey=True)
    for panel, model in zip(panels, MODELS):
        for index, way in enumerate(WAYS | CONTINUED):
            mine = [row for row in rows if row["model"] == model and row["way"] == way]
            style = {"label": way, "ls": "--" if way in CONTINUED else "-"}
            plot_seeds(panel, mine, seeds, f"C{index}", key="distance", **style)
        panel.axvline(SEGMENT, color="black", ls=":", lw=1)
        panel.set(yscale="log", ylim=(1e-6, 1))  # less is float32's rounding
        label_positions(panel, model, "last tokens read from the empty state")
    panels[0].set_ylabel("total variation distance to having read all")
    panels[0].legend(fontsize="small", title="trained by; dotted: segment length")
    figure.savefig(file, dpi=110)
    plt.close(figure)


def table(rows: list[dict], seeds: list[int]) -> str:
    """Means over the seeds, with the least and the most."""
    shown = [length for length in SHOWN if any(row["first"] + 1 == length for row in rows)]
    lines = ["| model | trained by |" + "".join(f" after {length:,} |" for length in shown)]
    lines.append("| --- | --- |" + " ---: |" * len(shown))
    for model in MODELS:
        for way in WAYS | CONTINUED:
            mine = {row["first"] + 1: row for row in rows if row["model"] == model and row["way"] == way}
            values = [[mine[length][f"distance_{seed}"] for seed in seeds] for length in shown]
            cells = [f"{mean(each):.4f} ({min(each):.4f} to {max(each):.4f})" for each in values]
            lines.append(f"| {model} | {way} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, help="the folder of the runs of experiments.length_generalisation")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument(
        "--longest", type=int, default=64 * SEGMENT, help="tokens read for the prediction compared with"
    )
    parser.add_argument("--places", type=int, default=64, help="of the test split")
    options = parser.parse_args()
    rows = [row for model in MODELS for way in WAYS | CONTINUED for row in measure(options.runs, model, way, options)]
    write_table(rows, TABLE)
    draw(rows, options.seeds, FIGURE)
    print(table(rows, options.seeds))


if __name__ == "__main__":
    main()

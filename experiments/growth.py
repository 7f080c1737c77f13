"""How the time and the memory of an update grow with the segment, and those of an evaluation with the text, by mixer.

    python -m experiments.growth
    python -m experiments.growth --longest 1024 --folder /tmp/there

Stacks of one layer, width 64, two lanes of bytes. An update is the trainer's: forward, backward, clipping and Adam. In
each turn every mixer gets the same number of tokens in segments of every length; the median of the turns counts. Memory
is the most that tensors hold at once on top of what was there before: every operation is watched, on real tensors, and
a storage counts until it is freed; what an operation takes and gives back inside itself is not seen. An evaluation is
that of `task=eval`: one lane in segments of 64.

Prints two tables for updates and one for evaluations; the rows go to logs/growth.jsonl and the picture to
figures/growth.png, in this folder or in --folder.
"""

from __future__ import annotations

import argparse
import json
import math
import weakref
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib
import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from experiments.mixers import machine, mixer_names
from experiments.throughput import composed_with, timed, zipf_tokens
from tbptt.cli.config import Config
from tbptt.data.lanes import Lanes
from tbptt.device import keep_freed_memory
from tbptt.evaluation.config import EvalConfig
from tbptt.evaluation.score import score
from tbptt.threads import share_cores
from tbptt.training.trainer import Trainer

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.ticker import EngFormatter

HERE = Path(__file__).parent
VOCABULARY, LANES, SHORTEST = 256, 2, 64
SHAPE = [
    "model=gdn_tiny", "model.n_layer=1", "model.d_model=64", "model.feed_forward=none", f"data.batch_size={LANES}",
    "model.gated_delta.n_head=2", "model.mlstm.n_head=2", "model.gla.n_head=2", "model.attention.n_head=2",
]  # fmt: skip


class LiveBytes(TorchDispatchMode):
    """What the tensors that were made inside the context hold: now, and at most."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.storages: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        known = {x.untyped_storage()._cdata for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        out = func(*args, **(kwargs or {}))
        for x in tree_leaves(out):
            if isinstance(x, Tensor) and x.untyped_storage()._cdata not in known | self.storages:
                self._count(x.untyped_storage())
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        address, size = storage._cdata, storage.nbytes()
        self.storages.add(address)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._forget, address, size)

    def _forget(self, address: int, size: int) -> None:
        self.storages.discard(address)
        self.now -= size


@cache
def settings() -> Config:
    return composed_with(SHAPE)


def trainer(name: str, length: int) -> Trainer:
    torch.manual_seed(1)
    config = settings()
    config.model.layers, config.model.tgt_len = [name], length
    model = config.model.build(VOCABULARY)
    lanes = Lanes.cut(zipf_tokens(4 * LANES * length + 1, VOCABULARY), LANES, length)
    schedule = config.scheduler.build(config.optimizer.lr, config.trainer.max_steps)
    return Trainer(model, lanes, config.optimizer.build(model), schedule, config.trainer)


def updates(names: list[str], lengths: list[int], turns: int) -> list[dict[str, Any]]:
    """A row for each mixer and length: microseconds and bytes a token of an update."""
    trainers = {(name, length): trainer(name, length) for name in names for length in lengths}
    peaks, seconds = {}, {key: [] for key in trainers}
    for key, one in trainers.items():
        one.update()  # makes Adam's moments
        with LiveBytes() as memory:
            one.update()
        peaks[key] = memory.peak
    for _ in range(turns):
        for key, one in trainers.items():
            repeats = lengths[-1] // key[1]
            seconds[key].append(timed(lambda one=one, n=repeats: [one.update() for _ in range(n)]) / repeats)
    return [
        {
            "task": "train",
            "mixer": name,
            "length": length,
            "seconds": round(median(seconds[name, length]), 5),
            "us_per_token": round(1e6 * median(seconds[name, length]) / (LANES * length), 2),
            "peak_bytes": peaks[name, length],
            "bytes_per_token": round(peaks[name, length] / (LANES * length)),
        }
        for name, length in trainers
    ]


def evaluations(names: list[str], texts: list[int]) -> list[dict[str, Any]]:
    """A row for each mixer and length of a text."""
    rows = []
    for name in names:
        model = trainer(name, SHORTEST).model
        for length in texts:
            stream = zipf_tokens(length + 1, VOCABULARY)
            with LiveBytes() as memory:
                walk_len = SHORTEST if model.any_segments() else None
                score(model, stream, EvalConfig(batch_size=1, walk_len=walk_len), SHORTEST)
            rows.append({"task": "eval", "mixer": name, "length": length, "peak_bytes": memory.peak})
    return rows


def exponent(lengths: list[int], costs: list[float]) -> float:
    """p of cost ~ length^p over the upper half of the lengths: 1 is linear."""
    upper = slice((len(lengths) - 1) // 2, None)
    return float(np.polyfit(np.log(lengths[upper]), np.log(costs[upper]), 1)[0])


def table(rows: list[dict[str, Any]], key: str, form: str, scale: float = 1.0, cost: str | None = None) -> str:
    """Markdown: a line for each mixer, a column for each length; last the exponent of `cost`, if there is one."""
    lengths = sorted({row["length"] for row in rows})
    lines = ["| mixer | " + " | ".join(f"{length:,}" for length in lengths) + (" | grows as T^ |" if cost else " |")]
    lines.append("| --- |" + " ---: |" * (len(lengths) + bool(cost)))
    for name in dict.fromkeys(row["mixer"] for row in rows):
        mine = sorted((row for row in rows if row["mixer"] == name), key=lambda row: row["length"])
        cells = [format(row[key] / scale, form) for row in mine]
        if cost:
            cells.append(f"{exponent(lengths, [row[cost] for row in mine]):.2f}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(trained: list[dict[str, Any]], evaluated: list[dict[str, Any]], file: Path) -> None:
    figure, axes = plt.subplots(1, 3, figsize=(13, 4.2), layout="constrained")
    panels = (
        (trained, "us_per_token", 1, "an update: time", "microseconds a token", "tokens of a segment"),
        (trained, "bytes_per_token", 2**10, "an update: memory", "KiB a token", "tokens of a segment"),
        (evaluated, "peak_bytes", 2**20, "an evaluation: memory", "MiB", "tokens of the text"),
    )
    for axis, (rows, key, scale, title, ylabel, xlabel) in zip(axes, panels):
        for index, name in enumerate(dict.fromkeys(row["mixer"] for row in rows)):
            mine = [row for row in rows if row["mixer"] == name]
            style = {"ls": "-" if index < 5 else "--", "marker": "o", "ms": 3}
            axis.plot([row["length"] for row in mine], [row[key] / scale for row in mine], label=name, **style)
        axis.set(title=title, ylabel=ylabel, xlabel=xlabel)
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter(EngFormatter(places=0, sep=""))
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    axes[0].set_ylim(auto=True)
    axes[0].set_yscale("log")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center")
    figure.savefig(file, dpi=120)
    plt.close(figure)


def doubled(low: int, high: int) -> list[int]:
    return [low * 2**i for i in range(round(math.log2(high / low)) + 1)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--longest", type=int, default=4096, help="tokens of a segment, a power of two")
    parser.add_argument("--text", type=int, default=65_536, help="tokens of the longest text, a power of two")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=HERE)
    options = parser.parse_args()
    keep_freed_memory()
    share_cores()
    for part in ("logs", "figures"):
        (options.folder / part).mkdir(parents=True, exist_ok=True)
    trained = updates(mixer_names(), doubled(SHORTEST, options.longest), options.turns)
    print("Microseconds a token of an update:\n\n" + table(trained, "us_per_token", ".1f", cost="seconds"))
    memory = table(trained, "bytes_per_token", ".1f", 2**10, cost="peak_bytes")
    print("\nKiB a token of an update, at its peak:\n\n" + memory)
    evaluated = evaluations(mixer_names(), doubled(options.text // 16, options.text)[::2])
    print("\nMiB of an evaluation, at its peak:\n\n" + table(evaluated, "peak_bytes", ".3f", 2**20))
    with open(options.folder / "logs/growth.jsonl", "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row | machine()) + "\n" for row in trained + evaluated)
    draw(trained, evaluated, options.folder / "figures/growth.png")

"""The figure of a sweep: the result against one setting, a line for every combination of the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tbptt.data.config import Level
from tbptt.report.curves import loss_axis

AXES = {
    "eval.mem_len": "memory length (tokens)",
    "eval.clamp_len": "clamp length (tokens)",
    "eval.tgt_len": "segment length (tokens)",
    "model.mem_len": "memory length in training (tokens)",
    "model.tgt_len": "segment length in training (tokens)",
    "optimizer.lr": "learning rate",
}
FIRST = ("eval.mem_len", "model.mem_len")  # what papers put on the x axis, if it varies
CROWD = 10  # more values than these are not all written at the axis


def draw_sweep(rows: list[dict[str, Any]], varied: list[str], prefix: str, target: Path) -> None:
    """`varied` are the settings that differ between the rows; `prefix` says which of their numbers is drawn."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    key, label = loss_axis(Level[rows[0]["level"]])
    if prefix:
        key, label = prefix + key, f"{label}, {prefix.strip('_')} evaluation"
    x = _x_axis(rows, varied)
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    if x is None:
        names = ["\n".join(f"{k}={row[k]}" for k in varied) or "the only job" for row in rows]
        axes.plot([row[key] for row in rows], range(len(rows)), "o")
        axes.set_yticks(range(len(rows)), names)
        axes.set_xlabel(label)
    else:
        others = [k for k in varied if k != x]
        lines: dict[str, list[tuple[float, float]]] = {}
        for row in rows:
            name = ", ".join(f"{k.removeprefix('eval.')} {row[k]}" for k in others)
            lines.setdefault(name, []).append((row[x], row[key]))
        for name, points in lines.items():
            axes.plot(*zip(*sorted(points)), marker="o", ms=4, label=name or None)
        if others:
            axes.legend()
        values = sorted({row[x] for row in rows})
        if values[0] > 0 and values[-1] / values[0] >= 16:
            axes.set_xscale("log")
            axes.minorticks_off()
        if len(values) <= CROWD:
            axes.set_xticks(values, [f"{value:g}" for value in values])
        axes.set_xlabel(AXES.get(x, x))
        axes.set_ylabel(label)
    axes.grid(alpha=0.3)
    figure.savefig(target, dpi=150)
    plt.close(figure)


def _x_axis(rows: list[dict[str, Any]], varied: list[str]) -> str | None:
    """Memory length if it varies, else the number with most values; None if only words vary."""
    numeric = [k for k in varied if all(type(row[k]) in (int, float) for row in rows)]
    return next(
        (k for k in FIRST if k in numeric), max(numeric, key=lambda k: len({row[k] for row in rows}), default=None)
    )

"""The figure of a sweep: the loss against one setting, with a line for every combination of the others."""

from __future__ import annotations

from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tbptt.data.config import Level
from tbptt.report.curves import loss_axis
from tbptt.report.picture import draw, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

AXES = {
    "eval.mem_len": "memory length (tokens)",
    "eval.clamp_len": "clamp length (tokens)",
    "eval.tgt_len": "segment length (tokens)",
    "model.mem_len": "memory length in training (tokens)",
    "model.tgt_len": "segment length in training (tokens)",
    "optimizer.lr": "learning rate",
}
PREFERRED_X = ("eval.mem_len", "model.mem_len")  # on the x axis if they vary, as in the papers
MAX_TICKS = 10  # with more values, matplotlib chooses the ticks


def draw_sweep(rows: list[dict[str, Any]], varied: list[str], prefix: str, target: Path) -> bool:
    """Draw the loss of each row, all in one unit. `varied`: the settings that differ; `prefix`: of the loss key.

    False, with a warning, if that fails.
    """

    def paint(axes: Axes) -> None:
        key, label = loss_axis(Level[rows[0]["level"]])
        if prefix:
            key, label = prefix + key, f"{label}, {prefix.strip('_')} evaluation"
        axes.grid(alpha=0.3)
        x = _x_axis(rows, varied)
        if x is None:
            names = ["\n".join(f"{k}={row[k]}" for k in varied) or "the only job" for row in rows]
            axes.plot([row[key] for row in rows], range(len(rows)), "o")
            axes.set_yticks(range(len(rows)), [plain(name) for name in names])
            axes.set_xlabel(label)
        else:
            _draw_lines(axes, rows, x, [k for k in varied if k != x], key)
            axes.set_xlabel(plain(AXES.get(x, x)))
            axes.set_ylabel(label)

    return draw(paint, target)


def _draw_lines(axes: Axes, rows: list[dict[str, Any]], x: str, others: list[str], key: str) -> None:
    lines: dict[str, list[tuple[float, float]]] = {}
    for name, row in zip(line_names(rows, others), rows):
        lines.setdefault(plain(name), []).append((row[x], row[key]))
    for name, points in lines.items():
        axes.plot(*zip(*sorted(points)), marker="o", ms=4, label=name or None)
    if others:
        axes.legend()
    values = sorted({row[x] for row in rows})
    if values[0] > 0 and values[-1] / values[0] >= 16:
        axes.set_xscale("log")
        axes.minorticks_off()
    if len(values) <= MAX_TICKS:
        axes.set_xticks(values, [f"{value:g}" for value in values])


def line_names(rows: list[dict[str, Any]], keys: list[str]) -> list[str]:
    """A name for each row, of its settings `keys`; of checkpoints without the folders that all of them are in."""
    folders = [str(row.get("checkpoint")).split("/")[:-1] for row in rows]
    shared = sum(1 for _ in takewhile(lambda names: len(set(names)) == 1, zip(*folders)))
    names = []
    for row in rows:
        settings = [f"{key.removeprefix('eval.')} {row[key]}" for key in keys if key != "checkpoint"]
        checkpoint = ["/".join(str(row[key]).split("/")[shared:]) for key in keys if key == "checkpoint"]
        names.append(", ".join(checkpoint + settings))
    return names


def _x_axis(rows: list[dict[str, Any]], varied: list[str]) -> str | None:
    """Memory length if it varies, else the numeric setting with the most values; None if no numeric setting varies."""
    numeric = [k for k in varied if all(type(row[k]) in (int, float) for row in rows)]
    return next(
        (k for k in PREFERRED_X if k in numeric),
        max(numeric, key=lambda k: len({row[k] for row in rows}), default=None),
    )

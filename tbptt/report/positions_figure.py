"""The figure of the loss by position: a curve for every evaluation, with a band of one standard error."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tbptt.data.config import Level
from tbptt.report.curves import loss_axis
from tbptt.report.picture import draw, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHOWN_FROM = 8  # the y axis fits the positions from here on: the first predictions would squeeze all others together
LINES_INSIDE = 6  # of a legend
LINE_HEIGHT = 0.19  # inches


@dataclass
class Curve:
    """The losses of one evaluation by position."""

    name: str
    rows: list[dict[str, Any]]
    tgt_len: int  # the segment length in training


def draw_positions(curves: Sequence[Curve], level: Level, target: Path, title: str) -> bool:
    """Draw the curves, as bits per character or byte, or as perplexity on a logarithmic axis.

    A bucket stands at the geometric middle of the numbers of tokens read, which are 1 more than the positions. False,
    with a warning, if that fails.
    """
    key, label = loss_axis(level)

    def paint(axes: Axes) -> None:
        from cycler import cycler
        from matplotlib import rcParams

        axes.set_prop_cycle(cycler(linestyle=["-", "--", "-."]) * rcParams["axes.prop_cycle"])
        colours = [_draw_curve(axes, curve, key) for curve in curves]
        _mark_training_lengths(axes, [curve.tgt_len for curve in curves], colours)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.set(xlabel="tokens read since the state was empty", ylabel=label, title=plain(title))
        _fit_losses(axes, curves, key)
        axes.grid(alpha=0.3)
        _draw_legend(axes)

    return draw(paint, target)


def middle(row: dict[str, Any]) -> float:
    """Where a bucket stands on the axis: the geometric middle of its numbers of tokens read."""
    return math.sqrt((row["first"] + 1) * (row["last"] + 1))


def band(row: dict[str, Any], key: str) -> tuple[float, float]:
    """One standard error below and above the loss of a bucket, in the unit `key`."""
    error = row["standard_error"]
    if key == "ppl":
        return row[key] * math.exp(-error), row[key] * math.exp(error)
    return row[key] - error / math.log(2), row[key] + error / math.log(2)


def fitted_limits(rows: Sequence[dict[str, Any]], key: str) -> tuple[float, float] | None:
    """The limits of the loss axis, which fit the positions from SHOWN_FROM on; None if no loss there is finite."""
    shown = [row[key] for row in rows if row["first"] >= SHOWN_FROM and math.isfinite(row[key])]
    if not shown:
        return None
    low, high = min(shown), max(shown)
    if key == "ppl":
        factor = (high / low) ** 0.08 if high > low else 1.1
        return low / factor, high * factor
    margin = 0.08 * (high - low) or 0.1
    return low - margin, high + margin


def _draw_curve(axes: Axes, curve: Curve, key: str) -> Any:
    """Draw a curve with its band, and return its colour."""
    x = [middle(row) for row in curve.rows]
    (line,) = axes.plot(x, [row[key] for row in curve.rows], marker="o", ms=3, lw=1.2, label=plain(curve.name) or None)
    measured = [(at, *band(row, key)) for at, row in zip(x, curve.rows) if row["standard_error"] is not None]
    if measured:
        middles, lows, highs = zip(*measured)
        label = None if curve.name else f"standard error over {curve.rows[0]['pieces']:,} pieces"
        axes.fill_between(middles, lows, highs, color=line.get_color(), alpha=0.2, lw=0, label=label)
    return line.get_color()


def _mark_training_lengths(axes: Axes, lengths: list[int], colours: list[Any]) -> None:
    """A vertical line where the segments of training ended; in the colours of the curves, if these differ in it."""
    if len(set(lengths)) == 1:
        axes.axvline(lengths[0], color="black", ls=":", lw=1, label=f"segment length in training: {lengths[0]:,}")
        return
    axes.plot([], [], color="black", ls=":", lw=1, label="segment length in training")
    for length, colour in zip(lengths, colours):
        axes.axvline(length, color=colour, ls=":", lw=1)


def _draw_legend(axes: Axes) -> None:
    """Inside the axes if it is short, else below them, in a figure that grows by its height."""
    lines = len(axes.get_legend_handles_labels()[1])
    figure = axes.figure.figure
    if lines <= LINES_INSIDE:
        axes.legend(fontsize="small")
    else:
        width, height = figure.get_size_inches()
        figure.set_size_inches(width, height + lines * LINE_HEIGHT)
        figure.legend(fontsize="small", loc="outside lower center")


def _fit_losses(axes: Axes, curves: Sequence[Curve], key: str) -> None:
    """Limits and scale of the loss axis."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    if key == "ppl":
        axes.set_yscale("log")
    limits = fitted_limits([row for curve in curves for row in curve.rows], key)
    if limits is None:
        return
    low, high = limits
    axes.set_ylim(low, high)
    if key != "ppl":
        return
    axes.yaxis.set_major_locator(MaxNLocator(10) if high < 10 * low else LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:,g}")
    axes.yaxis.set_minor_locator(NullLocator())

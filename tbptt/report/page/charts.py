"""The charts of a page, as the numbers that its script draws. What JSON lacks, NaN and infinity, is null: a gap."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from tbptt.report.curves import loss_axis, loss_limits
from tbptt.report.page.runs import Run, Unit
from tbptt.report.page.scores import TOKENS
from tbptt.report.positions import TRAINED
from tbptt.report.positions_figure import band, fitted_limits, middle

MAX_POINTS = 2000  # of a curve: more than a screen has columns
TIMES = ((7200.0, 3600.0, "hours"), (300.0, 60.0, "minutes"), (0.0, 1.0, "seconds"))  # from, divided by, unit


@dataclass
class Series:
    """A curve of one run. `x` holds a list of numbers for every choice of the x axis, each as long as `y`."""

    run: int  # its index on the page
    x: dict[str, list[float | None]]
    y: list[float | None]
    low: list[float | None] = field(default_factory=list)  # a band around the curve
    high: list[float | None] = field(default_factory=list)


@dataclass
class Mark:
    """A vertical line."""

    x: float
    label: str
    runs: list[int]  # that it is for, by their indices


@dataclass
class Chart:
    title: str
    y_label: str
    x_labels: dict[str, str]
    series: list[Series]
    limits: tuple[float, float] | None  # of the y axis; the first losses of a training are above
    log_y: bool = False
    marks: list[Mark] = field(default_factory=list)


@dataclass
class Panel:
    """Charts that share a choice of the x axis. Those of another unit are in another panel."""

    title: str
    note: str
    charts: list[Chart]
    log_x: bool = False  # at first
    base: int = 10  # of a logarithmic x axis

    @property
    def runs(self) -> list[int]:
        """The runs that have a curve here, by their indices."""
        return sorted({series.run for chart in self.charts for series in chart.series})

    def data(self) -> dict[str, Any]:
        """For the script."""
        return asdict(self)


def curve_panels(runs: Sequence[Run]) -> list[Panel]:
    """Training and validation loss against tokens and time; a panel for every unit."""
    by_unit: dict[Unit | None, list[tuple[int, Run]]] = {}
    for number, run in enumerate(runs):
        if run.unit and any(_finite(line.get(loss_axis(run.unit.level)[0])) for line in run.metrics):
            by_unit.setdefault(run.unit, []).append((number, run))
    return [_curves(unit, group, len(by_unit) > 1) for unit, group in by_unit.items() if unit]


def _curves(unit: Unit, runs: list[tuple[int, Run]], several: bool) -> Panel:
    key, label = loss_axis(unit.level)
    times = [training_seconds(run.metrics) for _, run in runs]
    longest = max((seconds[-1] for seconds in times if seconds), default=0.0)
    divisor, name = next((divisor, name) for above, divisor, name in TIMES if longest >= above)
    x_labels = {"tokens": f"{TOKENS[unit.level]} seen", "time": f"training time in {name}"}
    charts = []
    for split, title in (("train", "Training loss"), ("valid", "Validation loss")):
        found = []
        for (number, run), seconds in zip(runs, times):
            chosen = [i for i, line in enumerate(run.metrics) if line.get("split", "train") == split]
            kept = chosen[:: -(-len(chosen) // MAX_POINTS) or 1]
            kept += chosen[-1:] if kept and kept[-1] != chosen[-1] else []
            x: dict[str, list[float | None]] = {"tokens": [_finite(run.metrics[i]["tokens"]) for i in kept]}
            x["time"] = [seconds[i] / divisor for i in kept]
            found.append(Series(number, x, [_finite(run.metrics[i].get(key)) for i in kept]))
        found = [series for series in found if any(y is not None for y in series.y)]
        values = [y for series in found for y in series.y if y is not None]
        if values:
            charts.append(Chart(title, label, x_labels, found, loss_limits(values), log_y=key == "ppl"))
    note = "Training time is without validations and checkpoints."
    return Panel(f"Learning curves, {TOKENS[unit.level]}" if several else "Learning curves", note, charts)


def training_seconds(metrics: Sequence[dict[str, Any]]) -> list[float]:
    """For each line, the time of training so far: tokens over tokens per second, summed over the lines of training.

    A line of validation stands between two of these, at its share of the tokens.
    """
    tokens, seconds = [0.0], [0.0]
    for line in metrics:
        rate = _finite(line.get("tokens_per_second"))
        if line.get("split", "train") == "train" and rate and line["tokens"] > tokens[-1]:
            seconds.append(seconds[-1] + (line["tokens"] - tokens[-1]) / rate)
            tokens.append(line["tokens"])
    return [_between(line["tokens"], tokens, seconds) for line in metrics]


def _between(at: float, x: list[float], y: list[float]) -> float:
    """Linear interpolation; constant beyond the last point."""
    right = bisect_left(x, at)
    if right == 0 or right == len(x):
        return y[min(right, len(x) - 1)]
    share = (at - x[right - 1]) / (x[right] - x[right - 1])
    return y[right - 1] + share * (y[right] - y[right - 1])


def position_panels(runs: Sequence[Run]) -> list[Panel]:
    """The loss by position of the runs that have one; a panel for every unit."""
    by_unit: dict[Unit, list[tuple[int, Run]]] = {}
    for number, run in enumerate(runs):
        if run.positions and run.unit and TRAINED in run.results:
            by_unit.setdefault(run.unit, []).append((number, run))
    return [_positions(unit, group, len(by_unit) > 1) for unit, group in by_unit.items()]


def _positions(unit: Unit, runs: list[tuple[int, Run]], several: bool) -> Panel:
    key, label = loss_axis(unit.level)
    series = []
    for number, run in runs:
        bands = [(None, None) if row["standard_error"] is None else band(row, key) for row in run.positions]
        low, high = ([_finite(edge[side]) for edge in bands] for side in (0, 1))
        x: dict[str, list[float | None]] = {"position": [middle(row) for row in run.positions]}
        series.append(Series(number, x, [_finite(row[key]) for row in run.positions], low, high))
    lengths: dict[int, list[int]] = {}
    for number, run in runs:
        lengths.setdefault(run.results[TRAINED], []).append(number)
    marks = [Mark(length, f"{length:,} in training", numbers) for length, numbers in lengths.items()]
    limits = fitted_limits([row for _, run in runs for row in run.positions], key)
    x_labels = {"position": f"{TOKENS[unit.level]} read since the state was empty"}
    chart = Chart("Loss by position", label, x_labels, series, limits, key == "ppl", marks)
    title = f"Loss by position, {TOKENS[unit.level]}" if several else "Loss by position"
    note = "A band is one standard error of the mean over pieces; a dotted line, the segment length in training."
    return Panel(title, note, [chart], log_x=True, base=2)


def _finite(number: float | None) -> float | None:
    return number if number is not None and math.isfinite(number) else None

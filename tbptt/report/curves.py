"""The figure of a run's learning curve."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tbptt.data.config import Level
from tbptt.report.picture import draw, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def loss_axis(level: Level) -> tuple[str, str]:
    """The key in metrics and results of the unit that is usual for a level, and its axis label."""
    if level in (Level.char, Level.byte):
        return "bpc", f"bits per {level.name}"
    return "ppl", "perplexity" if level is Level.word else "perplexity per subword"


def loss_limits(values: list[float]) -> tuple[float, float]:
    """The limits of the loss axis, which cut off the high losses of the first steps. `values`: one or more."""
    ordered = sorted(values)
    return ordered[0] * 0.95, ordered[int(len(ordered) * 0.95)] * 1.05


def draw_curves(metrics: list[dict[str, Any]], level: Level, target: Path, title: str) -> bool:
    """Draw training and validation loss against tokens seen, as bits per character or byte, or as perplexity.

    False, with a warning, if that fails.
    """
    key, label = loss_axis(level)

    def paint(axes: Axes) -> None:
        from matplotlib.ticker import EngFormatter

        for split, style in (("train", {"lw": 1, "alpha": 0.7}), ("valid", {"marker": "o", "ms": 4})):
            points = [(m["tokens"], m[key]) for m in metrics if m.get("split", "train") == split and m[key]]
            if len(points) == 1:  # no line to see
                style |= {"marker": "o", "ms": 4}
            if points:
                axes.plot(*zip(*points), label=split, **style)
        finite = [m[key] for m in metrics if m[key]]
        if finite:
            axes.set_ylim(loss_limits(finite))
        axes.set(xlabel="tokens seen", ylabel=label, title=plain(title))
        axes.xaxis.set_major_formatter(EngFormatter())
        axes.grid(alpha=0.3)
        axes.legend()

    return draw(paint, target)

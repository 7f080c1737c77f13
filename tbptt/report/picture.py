"""Pictures beside the numbers: one that cannot be drawn is a warning, and names in it are plain text."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

log = logging.getLogger(__name__)


def draw(paint: Callable[[Axes], None], target: Path) -> bool:
    """Save what `paint` draws as a PNG. False, with a warning and without a file, if that fails for any reason."""
    try:
        from matplotlib.figure import Figure  # slow to import

        figure = Figure(figsize=(7, 4.2), layout="constrained")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # such as a character that the font lacks
            paint(figure.subplots())
            figure.savefig(target, dpi=150)
    except Exception as error:
        target.unlink(missing_ok=True)  # of an earlier start, or incomplete
        log.warning("%s could not be drawn: %s", target, " ".join(str(error).split()) or type(error).__name__)
        return False
    return True


def plain(text: str) -> str:
    """Escape `text` so that matplotlib does not read what stands between two dollar signs as mathematics."""
    return text.replace("$", r"\$")

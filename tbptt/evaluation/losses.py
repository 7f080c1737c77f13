"""The loss of every target, for significance tests and analyses: raw float32 in the order of the text, and a json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np


def save_losses(losses_N: np.ndarray, path: Path, about: dict[str, Any]) -> None:
    """Write (N,) losses in nats to `path`, little-endian, and `about` with their number and type to path.json.

    Read them with np.fromfile(path, "<f4"); the first is that of the second token, given the first.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    losses_N.astype("<f4").tofile(path)
    described = {"losses": path.name, "dtype": "<f4", "unit": "nats", "count": len(losses_N)} | about
    path.with_name(f"{path.name}.json").write_text(json.dumps(described, indent=1) + "\n")

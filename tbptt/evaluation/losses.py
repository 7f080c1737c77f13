"""Writes the loss of every target, for significance tests and analyses: raw float32 in text order, and a JSON file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from tbptt.errors import full_disk_reported
from tbptt.files import replacing

KEY = "eval.save_losses"


def save_losses(losses_N: np.ndarray, path: Path, metadata: dict[str, Any]) -> None:
    """Write the losses (N,) in nats to `path`, little-endian, and `metadata` with their count and dtype to `path`.json.

    Read them with np.fromfile(path, "<f4"). The first is the loss of the second token, given the first.
    """
    with full_disk_reported(path, KEY):
        path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, KEY) as new:
        new.write_bytes(losses_N.astype("<f4").tobytes())  # `tofile` does not tell why it fails
    described = {"losses": path.name, "dtype": "<f4", "unit": "nats", "count": len(losses_N)} | metadata
    with replacing(path.with_name(f"{path.name}.json"), KEY) as new:
        new.write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8")

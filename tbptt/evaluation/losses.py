"""Writes the loss of every target, for significance tests and analyses: raw float32 in text order, and a JSON file.

For a corpus with documents, also a table of the documents' mean losses.

Shapes: N targets, D documents.
"""

from __future__ import annotations

import csv
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


def save_document_losses(losses_N: np.ndarray, starts_D: np.ndarray, path: Path) -> Path:
    """Write number, first target, targets and mean loss in nats of every document to `path`.documents.csv.

    A document's targets are those that its tokens predict: its own tokens but the first, and the first of the next.
    """
    starts_D = starts_D[starts_D < len(losses_N)]
    counts_D = np.diff(starts_D, append=len(losses_N))
    means_D = np.add.reduceat(losses_N, starts_D, dtype=np.float64) / counts_D
    table = path.with_name(f"{path.name}.documents.csv")
    with replacing(table, KEY) as new, open(new, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("document", "first_target", "targets", "loss"))
        rows = zip(starts_D.tolist(), counts_D.tolist(), means_D.tolist())
        writer.writerows((document, *row) for document, row in enumerate(rows))
    return table

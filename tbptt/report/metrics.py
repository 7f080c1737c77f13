"""The local logger, which every training has: metrics.jsonl, one JSON object per line."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from tbptt.files import replacing, write_all

METRICS = "metrics.jsonl"
TIMES = ("tokens_per_second", "data_share", "compute_share", "wait_share", "mfu", "peak_memory_gib")  # of no two runs


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a metrics.jsonl. An incomplete last line, left by a killed run, is skipped."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    return [json.loads(line) for line in lines]


class MetricsFile:
    """Appends to metrics.jsonl, after deleting the lines after `step`, from which the run continues.

    Pictures and texts are files of the run directory already.
    """

    def __init__(self, run_dir: Path, step: int):
        self.path = run_dir / METRICS
        kept = [record for record in read_metrics(self.path) if record["step"] <= step]
        with replacing(self.path, "hydra.run.dir") as new:
            new.write_text("".join(json.dumps(record) + "\n" for record in kept), encoding="utf-8")
        self.file = open(self.path, "ab", buffering=0)  # noqa: SIM115 (open for the whole run)

    def write(self, record: dict[str, Any]) -> None:
        # JSON has no NaN or infinity: a diverged loss is written as null.
        finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
        write_all(self.file, json.dumps(finite) + "\n", "hydra.run.dir")

    def picture(self, name: str, path: Path, step: int) -> None: ...

    def text(self, name: str, text: str, step: int) -> None: ...

    def close(self) -> None:
        self.file.close()


def named_numbers(record: dict[str, Any]) -> dict[str, Any]:
    """The numbers of a line by the names that a logger shows: train/loss, valid/loss, ..."""
    prefix = record.get("split", "train")
    return {f"{prefix}/{key}": value for key, value in record.items() if key not in ("step", "split")}

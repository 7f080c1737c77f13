"""results.json: what a task has found out, whole or not there."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

from tbptt.errors import UserError

RESULTS = "results.json"
log = logging.getLogger(__name__)


def start_results(run_dir: Path) -> None:
    """A run directory has one purpose: UserError if it is a training run's; what else it reports is to be replaced."""
    if (run_dir / "checkpoints").exists():
        raise UserError(f"{run_dir} is a training run's: choose another hydra.run.dir")
    (run_dir / RESULTS).unlink(missing_ok=True)


def read_results(run_dir: Path) -> dict[str, Any]:
    """What an earlier start has found out; nothing if there was none, or it did not come so far."""
    try:
        return json.loads((run_dir / RESULTS).read_text())
    except (OSError, ValueError):
        return {}


def write_results(results: dict[str, Any], run_dir: Path) -> None:
    new = run_dir / "results.new"
    new.write_text(json.dumps(results, indent=1) + "\n")
    os.replace(new, run_dir / RESULTS)
    (run_dir / "error.txt").unlink(missing_ok=True)
    log.info("Results: %s", run_dir / RESULTS)

"""results.json, the results of a task, written atomically."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from tbptt.errors import UserError
from tbptt.files import replacing

RESULTS = "results.json"
log = logging.getLogger(__name__)


def start_results(run_dir: Path) -> None:
    """Delete earlier results from `run_dir`. UserError if it belongs to a training run."""
    if (run_dir / "checkpoints").exists():
        raise UserError(f"{run_dir} belongs to a training run: choose another hydra.run.dir")
    (run_dir / RESULTS).unlink(missing_ok=True)


def read_results(run_dir: Path) -> dict[str, Any]:
    """The results in `run_dir`; empty if there are none. PermissionError if they may not be read."""
    try:
        return json.loads((run_dir / RESULTS).read_text())
    except PermissionError:
        raise
    except (OSError, ValueError):
        return {}


def write_results(results: dict[str, Any], run_dir: Path) -> None:
    with replacing(run_dir / RESULTS, "hydra.run.dir") as new:
        new.write_text(json.dumps(results, indent=1) + "\n")
    (run_dir / "error.txt").unlink(missing_ok=True)
    log.info("Results: %s", run_dir / RESULTS)

"""The state of a run directory: results.json (finished), error.txt (failed), or neither (unfinished); never both."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tbptt.errors import UserError
from tbptt.files import replacing

RESULTS = "results.json"
ERROR = "error.txt"
MEASURES = ("loss", "loss_base2", "ppl", "bpc", "word_ppl", "bits_per_byte", "best_valid_loss")
log = logging.getLogger(__name__)
_begun: set[Path] = set()  # the run directories that starts in this process have taken over


def refuse_training_run(run_dir: Path) -> None:
    """UserError if `run_dir` belongs to a training run."""
    if (run_dir / "checkpoints").exists():
        raise UserError(f"{run_dir} belongs to a training run: choose another hydra.run.dir")


def begin(run_dir: Path, is_main: bool) -> None:
    """Take over `run_dir` for this start, once nothing can refuse it: an earlier result or error is deleted.

    Called on every rank; only the main one deletes.
    """
    _begun.add(run_dir.resolve())
    if is_main:
        (run_dir / RESULTS).unlink(missing_ok=True)
        (run_dir / ERROR).unlink(missing_ok=True)


def read_results(run_dir: Path) -> dict[str, Any]:
    """The results in `run_dir`; empty if there are none. PermissionError if they may not be read."""
    try:
        return json.loads((run_dir / RESULTS).read_text(encoding="utf-8"), object_hook=_with_nan)
    except PermissionError:
        raise
    except (OSError, ValueError):
        return {}


def why_incomparable(results: Sequence[Mapping[str, Any]]) -> str:
    """Why the losses of these results cannot be compared; empty if they can."""
    tokens = {(str(each.get("level")), each.get("vocabulary")) for each in results}
    if len(tokens) > 1:
        levels = ", ".join(sorted({level for level, _ in tokens}))
        return f"the losses are per token of {len(tokens)} different vocabularies ({levels})"
    texts = {each.get("text_sha256") for each in results} - {None}  # results of earlier versions do not tell
    return f"the losses are of {len(texts)} different texts" if len(texts) > 1 else ""


def write_results(results: dict[str, Any], run_dir: Path) -> None:
    """Numbers that are not finite, which JSON does not have, become null."""
    with replacing(run_dir / RESULTS, "hydra.run.dir") as new:
        new.write_text(json.dumps(_without_nan(results), indent=1, allow_nan=False) + "\n", encoding="utf-8")
        (run_dir / ERROR).unlink(missing_ok=True)
    log.info("Results: %s", run_dir / RESULTS)


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_without_nan(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _with_nan(entries: dict[str, Any]) -> dict[str, Any]:
    """The entries of a JSON object, NaN for a measure that is null."""
    measures = {key for key in entries if key.removeprefix("dynamic_") in MEASURES}
    return {key: math.nan if value is None and key in measures else value for key, value in entries.items()}


def read_error(run_dir: Path) -> str:
    """Why the run in `run_dir` failed; empty if it did not, or if it has been repaired."""
    path = run_dir / ERROR
    if (run_dir / RESULTS).exists() or not path.exists():
        return ""
    return path.read_text(encoding="utf-8", errors="replace").strip()


def write_error(run_dir: Path, cause: str) -> None:
    """Write error.txt, unless `run_dir` holds a run that this start has not taken over, or that is finished."""
    if not run_dir.is_dir():
        return
    holds_a_run = any((run_dir / name).exists() for name in ("checkpoints", "run.lock"))
    if not (run_dir / RESULTS).exists() and (run_dir.resolve() in _begun or not holds_a_run):
        with suppress(OSError):  # a full disk, or a folder of another user: the error itself is printed
            (run_dir / ERROR).write_text(cause + "\n", encoding="utf-8", errors="backslashreplace")


def objective(run_dir: Path) -> float | None:
    """What a sweeper that searches minimises: the best validation loss of a training, the loss of an evaluation.

    Infinity in place of NaN, which no sweeper can compare.
    """
    results = read_results(run_dir)
    if "train" in results:
        loss = results["train"]["best_valid_loss"]
    else:
        loss = results.get("dynamic_loss", results.get("loss"))
    return math.inf if loss is not None and math.isnan(loss) else loss

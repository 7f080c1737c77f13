"""Sends the metrics of a run to Weights & Biases. No failure there ends a training: metrics.jsonl has them too."""

from __future__ import annotations

import logging
import os
import secrets
from contextlib import suppress
from html import escape
from pathlib import Path
from typing import Any

from tbptt.files import replacing
from tbptt.report.config import LoggerConfig
from tbptt.report.members import shown_name
from tbptt.report.metrics import METRICS, named_numbers, read_metrics

log = logging.getLogger(__name__)
ID = "wandb_id"
INIT_TIMEOUT = 30  # seconds to wait for the server, instead of wandb's 90


class WandbRun:
    """Starts or resumes the wandb run of a run directory, whose id is stored in the file wandb_id.

    A run that was killed repeats the steps after its last checkpoint, with the same numbers, and wandb does not take
    back what it has: the steps that metrics.jsonl has, which is rewound after this, are not sent again. A training that
    begins anew, perhaps with other settings, is another wandb run.
    """

    def __init__(self, config: LoggerConfig, run_dir: Path, step: int, run_config: dict[str, Any]):
        """Of a run that starts, or continues, after `step`."""
        import wandb

        self.sent = _last_steps(run_dir) if (run_dir / ID).exists() else {}
        if self.sent and step == 0:
            (run_dir / ID).unlink()
            self.sent = {}
        mode: Any = config.mode and config.mode.value  # None: WANDB_MODE or wandb's own settings files decide
        arguments: dict[str, Any] = {
            "project": config.project,
            "entity": config.entity,
            "id": _run_id(run_dir / ID),
            "name": shown_name(run_dir),
            "dir": str(run_dir),
            "resume": "allow",
            "config": run_config,
        }
        settings: dict[str, Any] = {} if "WANDB_INIT_TIMEOUT" in os.environ else {"init_timeout": INIT_TIMEOUT}
        self.run: Any = None
        try:
            self.run = wandb.init(mode=mode, settings=wandb.Settings(**settings), **arguments)
        except Exception as error:
            log.warning(
                "wandb cannot be used now (%s): the run goes on; its metrics are in metrics.jsonl and, to be sent by "
                "`wandb sync` later, in %s",
                _first_line(error),
                run_dir / "wandb",
            )
            with suppress(Exception):
                wandb.teardown()  # otherwise the id is in use
                self.run = wandb.init(mode="offline", **arguments)
        self._call("define_metric", "*", step_metric="step")

    def write(self, record: dict[str, Any]) -> None:
        if record["step"] > self.sent.get(record.get("split"), 0):
            self._call("log", {"step": record["step"]} | named_numbers(record))

    def picture(self, name: str, path: Path, step: int) -> None:
        import wandb

        self._call("log", {"step": step, name: wandb.Image(str(path))})

    def text(self, name: str, text: str, step: int) -> None:
        import wandb

        self._call("log", {"step": step, name: wandb.Html(f"<pre>{escape(text)}</pre>")})

    def close(self) -> None:
        self._call("finish")

    def _call(self, method: str, *arguments: Any, **named: Any) -> None:
        """Call a method of wandb's run; after its first error, none any more."""
        if self.run is None:
            return
        try:
            getattr(self.run, method)(*arguments, **named)
        except Exception as error:
            self.run = None
            log.warning("wandb failed (%s): from here on, only metrics.jsonl has the metrics", _first_line(error))
            import wandb

            with suppress(Exception):
                wandb.teardown()  # otherwise it would try to send the rest when the process exits


def _last_steps(run_dir: Path) -> dict[str | None, int]:
    """The step of the last line in metrics.jsonl of every split, None for training updates."""
    return {record.get("split"): record["step"] for record in read_metrics(run_dir / METRICS)}


def _run_id(file: Path) -> str:
    """The id in the file, which is made if there is none."""
    if not file.exists() or not file.read_text(encoding="utf-8").strip():
        with replacing(file, "hydra.run.dir") as new:
            new.write_text(secrets.token_hex(4), encoding="utf-8")
    return file.read_text(encoding="utf-8").strip()


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

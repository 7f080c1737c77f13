"""Writes the metrics of a run: to metrics.jsonl, one JSON object per line, and to Weights & Biases if configured."""

from __future__ import annotations

import json
import math
import os
import secrets
from pathlib import Path
from typing import Any

from tbptt.errors import UserError
from tbptt.report.config import LoggerConfig, WandbConfig, WandbMode

METRICS = "metrics.jsonl"


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a metrics.jsonl. An incomplete last line, left by a killed run, is skipped."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    return [json.loads(line) for line in lines]


class NoMetrics:
    """For ranks that do not write metrics."""

    def write(self, record: dict[str, Any]) -> None: ...

    def close(self) -> None: ...


class Metrics:
    """Appends to metrics.jsonl, after deleting the lines after `step`, from which the run continues."""

    def __init__(self, run_dir: Path, step: int, logger: LoggerConfig, config: dict[str, Any]):
        self.path = run_dir / METRICS
        kept = [record for record in read_metrics(self.path) if record["step"] <= step]
        new = self.path.with_suffix(".new")
        new.write_text("".join(json.dumps(record) + "\n" for record in kept), encoding="utf-8")
        os.replace(new, self.path)
        self.file = open(self.path, "a", buffering=1, encoding="utf-8")  # noqa: SIM115 (open for the whole run)
        self.wandb = _wandb_run(logger, run_dir, config) if isinstance(logger, WandbConfig) else None

    def write(self, record: dict[str, Any]) -> None:
        # JSON has no NaN or infinity: a diverged loss is written as null.
        finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
        self.file.write(json.dumps(finite) + "\n")
        if self.wandb:
            prefix = record.get("split", "train")
            numbers = {f"{prefix}/{key}": value for key, value in record.items() if key not in ("step", "split")}
            self.wandb.log({"step": record["step"]} | numbers)

    def close(self) -> None:
        self.file.close()
        if self.wandb:
            self.wandb.finish()


def _wandb_run(config: WandbConfig, run_dir: Path, run_config: dict[str, Any]):
    """Start or resume the wandb run of this run directory, whose id is stored in the file wandb_id."""
    import wandb

    id_file = run_dir / "wandb_id"
    if not id_file.exists():
        id_file.write_text(secrets.token_hex(4), encoding="utf-8")
    if config.mode is WandbMode.online and wandb.api.api_key is None:
        raise UserError("logger=wandb found no API key: run `wandb login` once, or use logger.mode=offline")
    run = wandb.init(
        project=config.project,
        entity=config.entity,
        id=id_file.read_text(encoding="utf-8").strip(),
        name=run_dir.name,
        dir=str(run_dir),
        mode="offline" if config.mode is WandbMode.offline else "online",
        resume="allow",
        config=run_config,
    )
    run.define_metric("*", step_metric="step")
    return run

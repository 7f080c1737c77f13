"""The settings of the `logger` group. metrics.jsonl is always written; a logger is additional."""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import Enum

from tbptt.errors import UserError

WANDB_MODES = ("online", "offline", "disabled", "dryrun", "run", "shared")  # of the client


@dataclass
class LoggerConfig:
    name: str

    def check(self) -> None:
        """UserError for invalid settings."""


@dataclass
class LocalConfig(LoggerConfig):
    """metrics.jsonl only."""

    name: str = "local"


class WandbMode(Enum):
    online = "online"
    offline = "offline"
    disabled = "disabled"


@dataclass
class WandbConfig(LoggerConfig):
    """Weights & Biases, through its own client."""

    name: str = "wandb"
    project: str = "tbptt"
    entity: str | None = None  # team or user. None: the account's default
    # offline: stored in the run directory, uploaded by `wandb sync`. null: WANDB_MODE of the environment, else online
    mode: WandbMode | None = None

    def check(self) -> None:
        given = os.environ.get("WANDB_MODE", "online")
        if given not in WANDB_MODES:
            raise UserError(f"the variable WANDB_MODE={given} must be one of {', '.join(WANDB_MODES)}")


CONFIGS: dict[str, type[LoggerConfig]] = {config.name: config for config in (LocalConfig, WandbConfig)}

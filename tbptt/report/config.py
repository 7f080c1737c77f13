"""The settings of the `logger` group. metrics.jsonl is always written; a logger is additional."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


@dataclass
class LoggerConfig:
    name: str


@dataclass
class LocalConfig(LoggerConfig):
    """metrics.jsonl only."""

    name: str = "local"


class WandbMode(Enum):
    online = "online"
    offline = "offline"


@dataclass
class WandbConfig(LoggerConfig):
    """Weights & Biases, through its own client."""

    name: str = "wandb"
    project: str = "tbptt"
    entity: str | None = None  # team or user. None: the account's default
    mode: WandbMode = WandbMode.online  # offline: stored in the run directory, uploaded by `wandb sync`


CONFIGS: dict[str, type[LoggerConfig]] = {config.name: config for config in (LocalConfig, WandbConfig)}

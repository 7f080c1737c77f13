"""What the `logger` group configures. `metrics.jsonl` is always written; a logger comes on top."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


@dataclass
class LoggerConfig:
    name: str


@dataclass
class LocalConfig(LoggerConfig):
    """Nothing besides metrics.jsonl."""

    name: str = "local"


class WandbMode(Enum):
    online = "online"
    offline = "offline"


@dataclass
class WandbConfig(LoggerConfig):
    """Weights & Biases, through its own client."""

    name: str = "wandb"
    project: str = "tbptt"
    entity: str | None = None  # team or user; the account's default if not given
    mode: WandbMode = WandbMode.online  # offline: kept in the run directory, to be sent by `wandb sync`


CONFIGS: dict[str, type[LoggerConfig]] = {config.name: config for config in (LocalConfig, WandbConfig)}

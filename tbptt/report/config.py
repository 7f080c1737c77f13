"""The settings of the `logger` group: which loggers a run has beside metrics.jsonl, which is always written."""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import Enum
from importlib.util import find_spec

from tbptt.errors import UserError

WANDB_MODES = ("online", "offline", "disabled", "dryrun", "run", "shared")  # of the client
WITH_ACCOUNT = ("online", "run", "shared")  # those that send while the run goes on


class WandbMode(Enum):
    online = "online"
    offline = "offline"
    disabled = "disabled"


@dataclass
class LoggerConfig:
    """Any number of loggers at once: each choice of the group, as in logger=[wandb,tensorboard], switches one on."""

    wandb: bool = False  # logger=wandb: Weights & Biases, through its own client
    tensorboard: bool = False  # logger=tensorboard: event files in the run directory
    project: str = "tbptt"  # of wandb
    entity: str | None = None  # of wandb: team or user. None: the account's default
    mode: WandbMode | None = None  # of wandb. offline: for a later `wandb sync`. None: WANDB_MODE, else online

    def check(self) -> None:
        """UserError for invalid settings, or for a logger whose package or account is missing."""
        if self.wandb:
            given = os.environ.get("WANDB_MODE", "online")
            if given not in WANDB_MODES:
                raise UserError(f"the variable WANDB_MODE={given} must be one of {', '.join(WANDB_MODES)}")
            self._check_account()
        default = LoggerConfig()
        for key in () if self.wandb else ("project", "entity", "mode"):
            if getattr(self, key) != getattr(default, key):
                raise UserError(f"logger.{key} is a setting of wandb: add logger=wandb, or logger=[wandb,tensorboard]")
        if self.tensorboard and find_spec("tensorboard") is None:
            raise UserError(
                "logger=tensorboard needs the package tensorboard: install it with pip install -e '.[tensorboard]'"
            )

    def _check_account(self) -> None:
        """UserError if the run is to be sent while it goes on, and wandb knows no account."""
        import wandb

        mode = self.mode.value if self.mode else wandb.setup().settings.mode
        if mode in WITH_ACCOUNT and wandb.api.api_key is None:
            raise UserError("logger=wandb found no API key: run `wandb login` once, or use logger.mode=offline")

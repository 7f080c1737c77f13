"""The settings of the `scheduler` group: the learning rate as a closed-form function of the number of updates.

Every schedule can start with `warmup_steps` of linear warm-up from 0; its own function starts where the warm-up ends.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import Any

from tbptt.errors import UserError


@dataclass
class SchedulerConfig:
    name: str
    warmup_steps: int = 0  # updates of linear warm-up from 0

    def check(self) -> None:
        if self.warmup_steps < 0:
            raise UserError(f"scheduler.warmup_steps={self.warmup_steps} must be 0 or more")

    def build(self, lr: float, max_steps: int) -> Schedule:
        return Schedule(self, lr, max_steps)

    def factor(self, step: int, steps: int) -> float:
        """The factor on the base rate after `step` of `steps` updates, both counted from the end of the warm-up."""
        raise NotImplementedError


class Schedule:
    """The learning rate of each update. `observe` takes a validation loss; only `plateau` uses it."""

    def __init__(self, config: SchedulerConfig, lr: float, max_steps: int):
        self.config, self.base_lr, self.max_steps = config, lr, max_steps

    def lr(self, step: int) -> float:
        """The rate of the next update, after `step` updates."""
        warmup = self.config.warmup_steps
        if step < warmup:
            return self.base_lr * (step + 1) / (warmup + 1)
        return self.base_lr * self.config.factor(step - warmup, self.max_steps - warmup)

    def observe(self, valid_loss: float) -> None:
        pass

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


def check_min_factor(min_factor: float) -> None:
    if not 0 <= min_factor <= 1:
        raise UserError(f"scheduler.min_factor={min_factor} must be between 0 and 1: it is a factor on optimizer.lr")


@dataclass
class CosineConfig(SchedulerConfig):
    """Half a cosine from 1 to `min_factor`; 0 gives the original Transformer-XL schedule."""

    name: str = "cosine"
    min_factor: float = 0.0  # of optimizer.lr, at trainer.max_steps

    def check(self) -> None:
        super().check()
        check_min_factor(self.min_factor)

    def factor(self, step: int, steps: int) -> float:
        return self.min_factor + (1 - self.min_factor) * (1 + math.cos(math.pi * step / steps)) / 2


@dataclass
class InverseSqrtConfig(SchedulerConfig):
    """Proportional to 1 / sqrt(updates) after the warm-up (Vaswani et al. 2017)."""

    name: str = "inverse_sqrt"
    warmup_steps: int = 4_000  # updates of linear warm-up from 0

    def factor(self, step: int, steps: int) -> float:
        start = max(1, self.warmup_steps)
        return math.sqrt(start / (start + step))


@dataclass
class ConstantConfig(SchedulerConfig):
    name: str = "constant"

    def factor(self, step: int, steps: int) -> float:
        return 1.0


class DecayForm(Enum):
    linear = "linear"
    cosine = "cosine"
    sqrt = "sqrt"  # 1 - sqrt(progress): falls fast at first (Haegele et al. 2024)


@dataclass
class WSDConfig(SchedulerConfig):
    """Warm-up, stable, decay (Hu et al. 2024): constant, then down to `min_factor` over the last updates."""

    name: str = "wsd"
    decay_share: float = 0.2  # of all updates
    form: DecayForm = DecayForm.linear  # of the decay
    min_factor: float = 0.0  # of optimizer.lr, at trainer.max_steps

    def check(self) -> None:
        super().check()
        if not 0 <= self.decay_share <= 1:
            raise UserError(f"scheduler.decay_share={self.decay_share} must be between 0 and 1: a share of all updates")
        check_min_factor(self.min_factor)

    def factor(self, step: int, steps: int) -> float:
        length = min(steps, round(self.decay_share * (steps + self.warmup_steps)))
        if step <= steps - length:
            return 1.0
        progress = (step - (steps - length)) / length
        left = {
            DecayForm.linear: 1 - progress,
            DecayForm.cosine: (1 + math.cos(math.pi * progress)) / 2,
            DecayForm.sqrt: 1 - math.sqrt(progress),
        }[self.form]
        return self.min_factor + (1 - self.min_factor) * left


@dataclass
class PlateauConfig(ConstantConfig):
    """Constant, but multiplied by `decay` after every `patience` validations in a row without a new best loss."""

    name: str = "plateau"
    decay: float = 0.5  # the factor
    patience: int = 2  # validations without a new best loss
    min_factor: float = 0.0  # of optimizer.lr: it never falls below

    def check(self) -> None:
        super().check()
        if not 0 < self.decay < 1:
            raise UserError(f"scheduler.decay={self.decay} must be between 0 and 1")
        check_min_factor(self.min_factor)
        if self.patience < 1:
            raise UserError(f"scheduler.patience={self.patience} must be 1 or more")

    def build(self, lr: float, max_steps: int) -> Schedule:
        return PlateauSchedule(self, lr, max_steps)


class PlateauSchedule(Schedule):
    config: PlateauConfig

    def __init__(self, config: PlateauConfig, lr: float, max_steps: int):
        super().__init__(config, lr, max_steps)
        self.scale, self.best, self.waited = 1.0, math.inf, 0

    def lr(self, step: int) -> float:
        return super().lr(step) * self.scale

    def observe(self, valid_loss: float) -> None:
        if valid_loss < self.best:
            self.best, self.waited = valid_loss, 0
            return
        self.waited += 1
        if self.waited >= self.config.patience:
            self.scale, self.waited = max(self.scale * self.config.decay, self.config.min_factor), 0

    def state_dict(self) -> dict[str, Any]:
        return {"scale": self.scale, "best": self.best, "waited": self.waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.scale, self.best, self.waited = state["scale"], state["best"], state["waited"]


CONFIGS: dict[str, type[SchedulerConfig]] = {
    config.name: config for config in (CosineConfig, InverseSqrtConfig, ConstantConfig, WSDConfig, PlateauConfig)
}

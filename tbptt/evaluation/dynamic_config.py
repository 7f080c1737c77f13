"""The settings of the group `eval/dynamic`: whether and how the weights adapt to the text that is being scored."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tbptt.errors import UserError


@dataclass
class DynamicConfig:
    """No dynamic evaluation: the weights stay as trained."""

    name: str = "none"

    @property
    def enabled(self) -> bool:
        """Whether there is a dynamic evaluation."""
        return self.name != DynamicConfig.name

    def check(self) -> None:
        """Raise UserError for settings that cannot work."""


@dataclass
class SGDDynamicConfig(DynamicConfig):
    name: str = "sgd"
    lr: float = 0.05  # of the step after each segment, on the gradient of its mean loss
    decay: float = 0.003  # fraction of the distance to the trained weights that each step goes back

    def check(self) -> None:
        if not 0 < self.lr < math.inf:
            raise UserError(f"eval.dynamic.lr={self.lr} must be a positive number")
        if not 0 <= self.decay <= 1:
            raise UserError(f"eval.dynamic.decay={self.decay} must be between 0 and 1")


@dataclass
class RMSDynamicConfig(SGDDynamicConfig):
    """Steps divided, and decay multiplied, by the root mean square of each weight's gradients on training text."""

    name: str = "rms"
    lr: float = 5e-4  # of the step after each segment, relative to the root mean square of gradients
    eps: float = 1e-3  # added to the root mean squares
    statistics_tokens: int = 50_000  # tokens of training text, from its start

    def check(self) -> None:
        super().check()
        if not 0 < self.eps < math.inf:
            raise UserError(f"eval.dynamic.eps={self.eps} must be a positive number")
        if self.statistics_tokens < 1:
            raise UserError(f"eval.dynamic.statistics_tokens={self.statistics_tokens} must be 1 or more")


CONFIGS: dict[str, type[DynamicConfig]] = {
    config.name: config for config in (DynamicConfig, SGDDynamicConfig, RMSDynamicConfig)
}

"""The settings of the `optimizer` group: torch's optimizers, with the papers' settings as defaults."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import nn

from tbptt.errors import UserError


@dataclass
class OptimizerConfig:
    name: str
    lr: float = 2.5e-4
    from_checkpoint: bool = False  # with checkpoint=RUN: load its optimizer state and step, too

    def check(self) -> None:
        if not 0 < self.lr < math.inf:
            raise UserError(f"optimizer.lr={self.lr} must be a positive number")

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """A fused torch optimizer: its step changes neither weights nor state if its `found_inf` attribute is 1."""
        raise NotImplementedError


@dataclass
class AdamConfig(OptimizerConfig):
    name: str = "adam"
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    eps: float = 1e-8

    def check(self) -> None:
        super().check()
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise UserError(f"optimizer.betas={list(self.betas)} must be two numbers, each at least 0 and below 1")
        if not 0 < self.eps < math.inf:
            raise UserError(f"optimizer.eps={self.eps} must be a positive number")

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, self.lr, (self.betas[0], self.betas[1]), self.eps, fused=True)


@dataclass
class AdamWConfig(AdamConfig):
    name: str = "adamw"
    weight_decay: float = 0.01

    def check(self) -> None:
        super().check()
        check_weight_decay(self.weight_decay)

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        betas = self.betas[0], self.betas[1]
        return torch.optim.AdamW(parameters, self.lr, betas, self.eps, self.weight_decay, fused=True)


@dataclass
class SGDConfig(OptimizerConfig):
    name: str = "sgd"
    momentum: float = 0.0
    weight_decay: float = 0.0

    def check(self) -> None:
        super().check()
        check_weight_decay(self.weight_decay)
        if not 0 <= self.momentum < 1:
            raise UserError(f"optimizer.momentum={self.momentum} must be at least 0 and below 1")

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        parameters = list(parameters)
        sgd = torch.optim.SGD(parameters, self.lr, self.momentum, weight_decay=self.weight_decay, fused=True)
        if self.momentum:  # torch creates it uninitialised in the first step, which may be skipped
            for parameter in parameters:
                sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return sgd


def check_weight_decay(weight_decay: float) -> None:
    if not 0 <= weight_decay < math.inf:
        raise UserError(f"optimizer.weight_decay={weight_decay} must be 0 or a positive number")


ADAM_FAMILY = {AdamConfig.name, AdamWConfig.name}  # one state serves both: step and moments of every parameter
CONFIGS: dict[str, type[OptimizerConfig]] = {config.name: config for config in (AdamConfig, AdamWConfig, SGDConfig)}

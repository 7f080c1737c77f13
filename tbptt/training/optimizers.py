"""The settings of the `optimizer` group: torch's optimizers, with the papers' settings as defaults.

A state is saved under the number of its parameter in the model, so that it does not depend on groups of parameters.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import torch
from torch import nn

from tbptt.errors import UserError
from tbptt.models.protocol import RecurrentModel
from tbptt.training.muon import AdjustRate, Muon


class Decay(Enum):
    matrices = "matrices"  # of hidden layers: no embeddings, norms, biases, decays and convolutions
    all = "all"


@dataclass
class OptimizerConfig:
    name: str
    lr: float = 2.5e-4  # the rate that scheduler.* changes with time
    from_checkpoint: bool = False  # with checkpoint=RUN: load its optimizer state and step, too

    def check(self) -> None:
        if not 0 < self.lr < math.inf:
            raise UserError(f"optimizer.lr={self.lr} must be a positive number")

    def build(self, model: RecurrentModel) -> torch.optim.Optimizer:
        """An optimizer of torch's: its step changes neither weights nor state if its `found_inf` attribute is 1."""
        raise NotImplementedError


@dataclass
class AdamConfig(OptimizerConfig):
    name: str = "adam"
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])  # of the means of gradients and squares
    eps: float = 1e-8  # added to the root of the mean square

    def check(self) -> None:
        super().check()
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise UserError(f"optimizer.betas={list(self.betas)} must be two numbers, each at least 0 and below 1")
        if not 0 < self.eps < math.inf:
            raise UserError(f"optimizer.eps={self.eps} must be a positive number")

    def build(self, model: RecurrentModel) -> torch.optim.Optimizer:
        return torch.optim.Adam(model.parameters(), self.lr, (self.betas[0], self.betas[1]), self.eps, fused=True)


@dataclass
class AdamWConfig(AdamConfig):
    name: str = "adamw"
    weight_decay: float = 0.01  # an update takes lr * weight_decay of each weight away
    decay: Decay = Decay.matrices  # the parameters that decay

    def check(self) -> None:
        super().check()
        check_weight_decay(self.weight_decay)

    def build(self, model: RecurrentModel) -> torch.optim.Optimizer:
        groups = decay_groups(model, self.decay, self.weight_decay)
        return torch.optim.AdamW(groups, self.lr, (self.betas[0], self.betas[1]), self.eps, fused=True)


@dataclass
class SGDConfig(OptimizerConfig):
    name: str = "sgd"
    momentum: float = 0.0  # 0: none
    weight_decay: float = 0.0  # added to the gradient, times the weight
    decay: Decay = Decay.matrices  # the parameters that decay

    def check(self) -> None:
        super().check()
        check_weight_decay(self.weight_decay)
        if not 0 <= self.momentum < 1:
            raise UserError(f"optimizer.momentum={self.momentum} must be at least 0 and below 1")

    def build(self, model: RecurrentModel) -> torch.optim.Optimizer:
        groups = decay_groups(model, self.decay, self.weight_decay)
        sgd = torch.optim.SGD(groups, self.lr, self.momentum, fused=True)
        if self.momentum:  # torch creates it uninitialised in the first step, which may be skipped
            for parameter in model.parameters():
                sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return sgd


@dataclass
class MuonConfig(AdamWConfig):
    """torch's Muon (Jordan et al. 2024) for the projections of hidden layers, AdamW for all other parameters."""

    name: str = "muon"  # lr: the rate of Muon
    adam_lr: float | None = None  # the rate of AdamW, with the same schedule; lr if not given
    momentum: float = 0.95  # of Muon
    nesterov: bool = True  # of Muon's momentum
    ns_steps: int = 5  # Newton-Schulz iterations
    adjust_lr: AdjustRate = AdjustRate.match_rms_adamw  # how the rate depends on a matrix's shape: torch's adjust_lr_fn

    def check(self) -> None:
        super().check()
        if not hasattr(torch.optim, "Muon"):
            raise UserError(f"optimizer=muon needs torch 2.9 or newer, and this is {torch.__version__}")
        if self.adam_lr is not None and not 0 < self.adam_lr < math.inf:
            raise UserError(f"optimizer.adam_lr={self.adam_lr} must be a positive number, or null for optimizer.lr")
        if not 0 <= self.momentum < 1:
            raise UserError(f"optimizer.momentum={self.momentum} must be at least 0 and below 1")
        if not 1 <= self.ns_steps < 100:
            raise UserError(f"optimizer.ns_steps={self.ns_steps} must be between 1 and 99")

    def build(self, model: RecurrentModel) -> torch.optim.Optimizer:
        matrices = model.parameter_groups().matrices
        others = [group for group in decay_groups(model, self.decay, self.weight_decay, without=matrices)]
        muon = {
            "weight_decay": self.weight_decay, "momentum": self.momentum, "nesterov": self.nesterov,
            "ns_steps": self.ns_steps, "adjust_lr_fn": self.adjust_lr.name,
        }  # fmt: skip
        adam = {"betas": (self.betas[0], self.betas[1]), "eps": self.eps}
        return Muon(matrices, others, self.lr, (self.adam_lr or self.lr) / self.lr, muon, adam)


def decay_groups(
    model: RecurrentModel, decay: Decay, weight_decay: float, without: Iterable[nn.Parameter] = ()
) -> list[dict[str, Any]]:
    """Parameter groups for torch, those that decay first; `without` are left out."""
    decaying = set(model.parameters() if decay is Decay.all else model.parameter_groups().matrices)
    left_out, groups = set(without), []
    for chosen, value in ((True, weight_decay), (False, 0.0)):
        parameters = [p for p in model.parameters() if (p in decaying) is chosen and p not in left_out]
        if parameters:
            groups.append({"params": parameters, "weight_decay": value})
    return groups


def saved_state(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[int, Any]:
    """The optimizer's state of every parameter, under its number in the model."""
    return {number: optimizer.state[p] for number, p in enumerate(model.parameters()) if p in optimizer.state}


def load_state(optimizer: torch.optim.Optimizer, model: nn.Module, state: dict[int, Any]) -> None:
    """Load what `saved_state` returned; the optimizer's settings stay."""
    numbers = {parameter: number for number, parameter in enumerate(model.parameters())}
    ordered = [numbers[parameter] for group in optimizer.param_groups for parameter in group["params"]]
    by_place = {place: state[number] for place, number in enumerate(ordered) if number in state}
    optimizer.load_state_dict(optimizer.state_dict() | {"state": by_place})


def check_weight_decay(weight_decay: float) -> None:
    if not 0 <= weight_decay < math.inf:
        raise UserError(f"optimizer.weight_decay={weight_decay} must be 0 or a positive number")


ADAM_FAMILY = {AdamConfig.name, AdamWConfig.name}  # one state serves both: step and moments of every parameter
CONFIGS: dict[str, type[OptimizerConfig]] = {
    config.name: config for config in (AdamConfig, AdamWConfig, SGDConfig, MuonConfig)
}

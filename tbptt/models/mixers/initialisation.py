"""Initial values that several mixers share: linear maps, decays, and the time steps that scale them."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


@torch.no_grad()
def init_linear(module: nn.Module, std: float = 0.02) -> None:
    """All linear maps of a module: weights N(0, std), biases 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            layer.weight.normal_(0, std)
            if layer.bias is not None:
                layer.bias.zero_()


@torch.no_grad()
def init_log_decay(A_log: Tensor, low: float, high: float) -> None:
    """log A for A ~ U(low, high); as in Mamba-2."""
    A_log.uniform_(low, high).clamp_(min=1e-4).log_()


@torch.no_grad()
def init_time_step(dt_bias: Tensor, low: float = 1e-3, high: float = 1e-1) -> None:
    """The bias for which softplus(bias) = dt, with log dt ~ U(log low, log high) and dt at least 1e-4 (Mamba-2)."""
    dt = dt_bias.uniform_(math.log(low), math.log(high)).exp_().clamp_(min=1e-4)
    dt_bias.copy_(dt + (-torch.expm1(-dt)).log())

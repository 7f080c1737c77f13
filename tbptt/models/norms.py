"""Normalisations around the branches of a stack."""

from __future__ import annotations

from enum import Enum

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Norm(Enum):
    rms = "rms"
    rms_plus_one = "rms_plus_one"  # with weights 1 + w, as in Gemma and Qwen3-Next
    layer = "layer"


class PlusOneRMSNorm(nn.RMSNorm):
    """The factors are 1 + weight: adding the 1 beforehand would round weights that are small."""

    @torch.no_grad()
    def reset_parameters(self) -> None:
        self.weight.zero_()

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.normalized_shape, 1 + self.weight, self.eps)


NORMS: dict[Norm, type[nn.RMSNorm | nn.LayerNorm]] = {
    Norm.rms: nn.RMSNorm,
    Norm.rms_plus_one: PlusOneRMSNorm,
    Norm.layer: nn.LayerNorm,
}


def make_norm(kind: Norm, size: int, eps: float) -> nn.Module:
    return NORMS[kind](size, eps=eps)

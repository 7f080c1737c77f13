"""Normalisations around the branches of a stack, and of heads within mixers."""

from __future__ import annotations

from enum import Enum

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


class Norm(Enum):
    rms = "rms"
    rms_plus_one = "rms_plus_one"  # with weights 1 + w, as in Gemma and Qwen3-Next
    layer = "layer"


def rms_norm(x: Tensor, weight_D: Tensor | None, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last axis (Zhang and Sennrich 2019), in the dtype of the weight."""
    if weight_D is not None:  # under autocast x may have 16 bits, for which torch has no kernel with such a weight
        x = x.to(weight_D.dtype)
    if x.device.type == "cpu":
        return FewPassRMSNorm.apply(x, weight_D, eps, 1.0)
    return F.rms_norm(x, x.shape[-1:], weight_D, eps)


def unit_length(x: Tensor, eps: float) -> Tensor:
    """x / sqrt(sum(x^2) + eps) over the last axis."""
    D = x.shape[-1]
    if x.device.type == "cpu":
        return FewPassRMSNorm.apply(x, None, eps / D, D**-0.5)
    return F.rms_norm(x, (D,), None, eps / D) * D**-0.5


class FewPassRMSNorm(torch.autograd.Function):
    """RMS norm times a number, on a processor, where torch composes it of twenty operations: half of the time."""

    @staticmethod
    def forward(ctx, x: Tensor, weight_D: Tensor | None, eps: float, scale: float) -> Tensor:
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        inverse = (length.square() / x.shape[-1] + eps).rsqrt_().mul_(scale)
        ctx.save_for_backward(x, inverse, weight_D)
        ctx.scale = scale
        return x * inverse if weight_D is None else (x * inverse).mul_(weight_D)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        x, inverse, weight_D = ctx.saved_tensors
        product, D = dy * x, x.shape[-1]
        d_weight = (inverse.reshape(1, -1) @ product.reshape(-1, D))[0] if ctx.needs_input_grad[1] else None
        along = product.sum(-1) if weight_D is None else product @ weight_D
        scaled = dy if weight_D is None else dy * weight_D
        along = along.unsqueeze(-1) * inverse.square().div_(D * ctx.scale**2)
        return torch.addcmul(scaled, x, along, value=-1).mul_(inverse), d_weight, None, None


class RMSNorm(nn.Module):
    def __init__(self, size: int, eps: float):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(size)), eps

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.eps)


class PlusOneRMSNorm(RMSNorm):
    """The factors are 1 + weight: adding the 1 beforehand would round weights that are small."""

    def __init__(self, size: int, eps: float):
        super().__init__(size, eps)
        nn.init.zeros_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, 1 + self.weight, self.eps)


NORMS = {Norm.rms: RMSNorm, Norm.rms_plus_one: PlusOneRMSNorm, Norm.layer: nn.LayerNorm}


def make_norm(kind: Norm, size: int, eps: float) -> nn.Module:
    return NORMS[kind](size, eps=eps)

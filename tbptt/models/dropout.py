"""Dropout whose masks cost little on a processor, where torch draws a random number in float64 for every entry.

After a ReLU no mask is kept at all.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


def random_drop(x: Tensor, rate: float) -> Tensor:
    """Zero every entry with probability `rate`, enlarge the others to keep the mean."""
    if rate == 0:
        return x
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return F.dropout(x, rate)
    return x * kept(x, rate)


def kept(like: Tensor, rate: float) -> Tensor:
    """1 / (1 - rate) or 0 for every entry of `like`, decided by 16 random bits each.

    A rate between two that 16 bits can express is met by taking one or the other for the whole mask, by chance.
    """
    words = torch.empty(-(-like.numel() // 4) + 1, dtype=torch.int64).random_(-(2**63), None)
    share = min(rate * 2**16, 2**16 - 1)  # of 2^16 values
    low = math.floor(share)
    dropped = low + (words[-1] < round((share - low) * 2**64) - 2**63)
    bits = words[:-1].view(torch.int16)[: like.numel()].view(like.shape)
    mask = torch.empty_like(like, memory_format=torch.contiguous_format, requires_grad=False)
    torch.ge(bits, (dropped - 2**15).to(torch.int16), out=mask)  # at once: a mask of bools takes four times as long
    return mask.mul_(1 / (1 - rate))


def dropped_relu(x: Tensor, rate: float) -> Tensor:
    """Dropout of relu(x). Only the result is kept for the gradient, which passes where that is positive."""
    return DroppedReLU.apply(x, rate)


class DroppedReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, rate: float) -> Tensor:
        y, ctx.rate = random_drop(x.relu(), rate), rate
        ctx.save_for_backward(y)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        (y,) = ctx.saved_tensors
        return torch.ops.aten.threshold_backward(dy, y, 0) * (1 / (1 - ctx.rate)), None


class Dropout(nn.Dropout):
    def forward(self, x: Tensor) -> Tensor:
        return random_drop(x, self.p if self.training else 0.0)

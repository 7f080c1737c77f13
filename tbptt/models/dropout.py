"""Dropout with cheap masks on a CPU, where torch draws a float64 random number for every entry.

Dropout after a ReLU saves no mask for the backward pass.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


def fast_dropout(x: Tensor, rate: float) -> Tensor:
    """Zero every entry with probability `rate` and scale the others by 1 / (1 - rate)."""
    if rate == 0:
        return x
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return F.dropout(x, rate)
    return x * dropout_mask(x, rate)


def dropout_mask(like: Tensor, rate: float) -> Tensor:
    """A mask of the shape of `like` with entries 1 / (1 - rate) or 0, from 16 random bits per entry.

    A rate that is not a multiple of 2^-16 is rounded up or down at random, once for the whole mask, so that it is exact
    in expectation. The bits are of a generator of numpy's, which is twice as fast as torch's and gets its seed from it.
    """
    seed = torch.empty(2, dtype=torch.int64).random_()
    words = np.random.SFC64(seed.numpy()).random_raw(-(-like.numel() // 4) + 1)
    threshold = min(rate * 2**16, 2**16 - 1)  # how many of the 2^16 values are dropped
    dropped = math.floor(threshold) + (int(words[-1]) < (threshold % 1) * 2**64)
    bits, first_kept = torch.from_numpy(words.view(np.int16))[: like.numel()].view(like.shape), dropped - 2**15
    if like.element_size() == bits.element_size():  # integers of 16 bits are written four times as fast as floats
        scale = torch.tensor(1 / (1 - rate), dtype=like.dtype).view(torch.int16)
        return bits.ge_(first_kept).mul_(scale).view(like.dtype)
    mask = torch.empty_like(like, memory_format=torch.contiguous_format, requires_grad=False)
    torch.ge(bits, first_kept, out=mask)  # a boolean mask would take four times as long
    return mask.mul_(1 / (1 - rate))


def relu_dropout(x: Tensor, rate: float) -> Tensor:
    """Dropout of relu(x). Only the output is saved for the backward pass: the gradient passes where it is positive."""
    return ReLUDropout.apply(x, rate)


class ReLUDropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, rate: float) -> Tensor:
        y, ctx.rate = fast_dropout(x.relu(), rate), rate
        ctx.save_for_backward(y)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        (y,) = ctx.saved_tensors
        return torch.ops.aten.threshold_backward(dy, y, 0) * (1 / (1 - ctx.rate)), None


class Dropout(nn.Dropout):
    def forward(self, x: Tensor) -> Tensor:
        return fast_dropout(x, self.p if self.training else 0.0)

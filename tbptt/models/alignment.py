"""Sizes that a GPU multiplies fast, inside; the sizes of the model, outside.

Where a row of 16-bit numbers does not begin at a multiple of 16 bytes, matrix products fall back to slow kernels. So
what is multiplied is filled up with zeros, in the pass that lowers its precision; parameters keep their sizes, and
spare columns of a result are cut off or meet zeros.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from tbptt.device import product_dtype

MULTIPLE = {"cuda": 16, "cpu": 1}  # entries of a row


def aligned(size: int, device: torch.device) -> int:
    """The size, or a little more."""
    return size + -size % MULTIPLE[device.type]


def fill_up(x: Tensor, sizes: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """`x` as `dtype`, its last dimensions filled up with zeros to `sizes`: one pass, and one backward."""
    return FillUp.apply(x, sizes, dtype) if x.shape[-len(sizes) :] != sizes else x.to(dtype)


def cut(x: Tensor, *sizes: int) -> Tensor:
    """The first entries of the last dimensions; `x` itself if that is all, to which gradients are added in place."""
    if x.shape[-len(sizes) :] == sizes:
        return x
    for dim, size in enumerate(reversed(sizes), start=1):
        x = x.narrow(-dim, 0, size)
    return x


class FillUp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, sizes: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        ctx.part, ctx.given = (..., *(slice(size) for size in x.shape[-len(sizes) :])), x.dtype
        y = x.new_zeros(*x.shape[: -len(sizes)], *sizes, dtype=dtype)
        y[ctx.part] = x
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None, None]:
        return dy[ctx.part].to(ctx.given), None, None


def aligned_linear(x: Tensor, layer: nn.Linear) -> Tensor:
    """The layer's result and spare columns of zeros, to be cut off or given to the next layer."""
    sizes, dtype = tuple(aligned(size, x.device) for size in layer.weight.shape), product_dtype(x)
    weight, bias = fill_up(layer.weight, sizes, dtype), fill_up(layer.bias, sizes[:1], dtype)
    return F.linear(fill_up(x, sizes[1:], dtype), weight, bias)

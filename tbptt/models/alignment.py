"""Zero padding of matrices to the sizes that a GPU multiplies fast.

If a row of 16-bit numbers does not begin at a multiple of 16 bytes, cuBLAS falls back to slow kernels. Operands of
matrix products are therefore padded with zeros, in the same pass that casts them to 16 bits. Parameters keep their
sizes; padding columns of a result are cropped, or multiplied by the zero padding of the next operand.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from tbptt.device import matmul_dtype

ALIGNMENT = {"cuda": 16, "cpu": 1}  # row lengths are rounded up to a multiple of this many entries


def aligned(size: int, device: torch.device) -> int:
    """`size` rounded up to a multiple of the device's alignment."""
    return size + -size % ALIGNMENT[device.type]


def pad_to(x: Tensor, sizes: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Cast `x` to `dtype` and zero-pad its last dimensions to `sizes`: one pass forward and one backward."""
    return PadTo.apply(x, sizes, dtype) if x.shape[-len(sizes) :] != sizes else x.to(dtype)


def crop(x: Tensor, *sizes: int) -> Tensor:
    """Crop the last dimensions of `x` to `sizes`; an `x` of that size is returned as is, without a view."""
    if x.shape[-len(sizes) :] == sizes:
        return x
    for dim, size in enumerate(reversed(sizes), start=1):
        x = x.narrow(-dim, 0, size)
    return x


class PadTo(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, sizes: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        ctx.region, ctx.input_dtype = (..., *(slice(size) for size in x.shape[-len(sizes) :])), x.dtype
        y = x.new_zeros(*x.shape[: -len(sizes)], *sizes, dtype=dtype)
        y[ctx.region] = x
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None, None]:
        return dy[ctx.region].to(ctx.input_dtype), None, None


def aligned_linear(x: Tensor, layer: nn.Linear) -> Tensor:
    """The layer's output with zero padding columns, to be cropped or passed to the next aligned layer."""
    sizes, dtype = tuple(aligned(size, x.device) for size in layer.weight.shape), matmul_dtype(x)
    weight, bias = pad_to(layer.weight, sizes, dtype), pad_to(layer.bias, sizes[:1], dtype)
    return F.linear(pad_to(x, sizes[1:], dtype), weight, bias)

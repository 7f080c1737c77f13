"""A linear layer over memory and segment that skips the gradient of a memory that does not require one.

Shapes: B lanes, M memory positions, T tokens of the segment, K = M + T, D inputs, F outputs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tbptt.device import matmul_dtype
from tbptt.models.alignment import crop


def context_linear(memory_BMD: Tensor, x_BTD: Tensor, weight_FD: Tensor) -> Tensor:
    """Apply the weight to the concatenation of memory and segment: (B, K, F). Follows autocast like nn.Linear.

    The weight may have more than D columns (padding): the inputs are zero-padded to match.
    """
    dtype = matmul_dtype(x_BTD)
    with torch.autocast(x_BTD.device.type, enabled=False):
        return ContextLinear.apply(memory_BMD, x_BTD, weight_FD.to(dtype))


class ContextLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, memory_BMD: Tensor, x_BTD: Tensor, weight_FD: Tensor) -> Tensor:
        (B, M, D), T = memory_BMD.shape, x_BTD.shape[1]
        ctx.memory_len, ctx.d_input = M, D
        # Concatenate, pad and cast in one pass.
        allocate = weight_FD.new_empty if weight_FD.shape[1] == D else weight_FD.new_zeros
        context_BKD = allocate(B, M + T, weight_FD.shape[1])
        context_BKD[:, :M, :D], context_BKD[:, M:, :D] = memory_BMD, x_BTD
        ctx.save_for_backward(context_BKD, weight_FD)
        return context_BKD @ weight_FD.t()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_BKF: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        context_BKD, weight_FD = ctx.saved_tensors
        d_memory = crop(dy_BKF[:, : ctx.memory_len] @ weight_FD, ctx.d_input) if ctx.needs_input_grad[0] else None
        d_weight = dy_BKF.flatten(0, 1).t() @ context_BKD.flatten(0, 1)
        return d_memory, crop(dy_BKF[:, ctx.memory_len :] @ weight_FD, ctx.d_input), d_weight

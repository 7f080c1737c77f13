"""Cross entropy of a linear layer's outputs, without ever holding all of them.

Shapes: N tokens, E input size, V words; a chunk is some rows of N.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from tbptt.device import product_dtype
from tbptt.models.alignment import aligned, cut, fill_up

LOGITS = 2**25  # computed at once, at most: 128 MiB in float32
IN_CACHE = 2**19  # on a processor, where nothing is kept for a backward pass: 2 MiB


def linear_cross_entropy(x_NE: Tensor, weight_VE: Tensor, bias_V: Tensor, targets_N: Tensor) -> Tensor:
    """-log softmax(x W^T + b)[target] of every token: (N,), in nats. Under autocast, products are lowered, sums not."""
    dtype = product_dtype(x_NE)
    with torch.autocast(x_NE.device.type, enabled=False):
        if torch.is_grad_enabled():
            return LinearCrossEntropy.apply(x_NE, weight_VE, bias_V, targets_N, dtype)
        return _losses(*_aligned(x_NE, weight_VE, bias_V, dtype), targets_N)


def _aligned(x_NE: Tensor, weight_VE: Tensor, bias_V: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Input, weight and bias in this precision, with spare columns of zeros and spare words of probability 0."""
    (V, E), device = weight_VE.shape, weight_VE.device
    words, width = aligned(V, device), aligned(E, device)
    bias = F.pad(bias_V.to(dtype), (0, words - V), value=-torch.inf) if words > V else bias_V.to(dtype)
    return fill_up(x_NE, (width,), dtype), fill_up(weight_VE, (words, width), dtype), bias


def _losses(x_NE: Tensor, weight_VE: Tensor, bias_V: Tensor, targets_N: Tensor) -> Tensor:
    """The forward pass alone."""
    size = (IN_CACHE if x_NE.device.type == "cpu" else LOGITS) // len(weight_VE)
    chunks = [
        F.cross_entropy(_logits(x_NE[rows], weight_VE, bias_V), targets_N[rows], reduction="none")
        for rows in _chunks(len(x_NE), size)
    ]
    return torch.cat(chunks)


class LinearCrossEntropy(torch.autograd.Function):
    """Logits that fit into one table are computed once. Others are, forward, a table for some tokens after the other.

    Backward it is one for some words after the other, so that the rows of the weight's gradient are written once.
    """

    @staticmethod
    def forward(
        ctx: Any, x_NE: Tensor, weight_VE: Tensor, bias_V: Tensor, targets_N: Tensor, dtype: torch.dtype
    ) -> Tensor:
        ctx.given, ctx.sizes = weight_VE.dtype, weight_VE.shape
        x_NE, weight_VE, bias_V = _aligned(x_NE, weight_VE, bias_V, dtype)
        if len(x_NE) * len(weight_VE) > LOGITS:
            most_N, total_N, nll_N = x_NE.new_empty(3, len(x_NE), dtype=torch.promote_types(dtype, torch.float32))
            for rows in _chunks(len(x_NE), LOGITS // len(weight_VE)):
                logits = _logits(x_NE[rows], weight_VE, bias_V)
                most_N[rows] = logits.amax(-1)
                at_target_N = _at(logits, targets_N[rows])
                total_N[rows] = logits.sub_(most_N[rows, None]).exp_().sum(-1)
                nll_N[rows] = most_N[rows] - at_target_N + total_N[rows].log()
            ctx.save_for_backward(x_NE, weight_VE, bias_V, targets_N, most_N, total_N)
            return nll_N
        logits = _logits(x_NE, weight_VE, bias_V)
        probabilities = logits.softmax(-1)
        # The likeliest word's probability, unlike the target's, is never too small to take its logarithm.
        lse_N = logits.amax(-1) - probabilities.amax(-1).log()
        if any(ctx.needs_input_grad):
            error_NV = _less_at(probabilities, targets_N, 1.0)
            ctx.save_for_backward(x_NE, weight_VE, error_NV.to(dtype))
        return lse_N - _at(logits, targets_N)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_nll_N: Tensor) -> tuple[Tensor | None, ...]:
        x_NE, weight_VE, *rest = ctx.saved_tensors
        (V, E), scale_N1 = ctx.sizes, d_nll_N[:, None].to(x_NE.dtype)
        scaled_NE = x_NE * scale_N1
        if len(rest) == 1:
            (error_NV,) = rest
            dx_NE = (error_NV @ weight_VE) * scale_N1
            d_weight = cut(error_NV.t() @ scaled_NE, V, E).to(ctx.given).contiguous()  # what adds to it goes row by row
            d_bias = cut(error_NV.t() @ scale_N1, V, 1)[:, 0].to(ctx.given)
            return cut(dx_NE, E), d_weight, d_bias, None, None
        bias_V, targets_N, most_N, total_N = rest
        d_weight, d_bias = weight_VE.new_empty(V, E, dtype=ctx.given), bias_V.new_empty(V, dtype=ctx.given)
        dx_NE = torch.zeros_like(x_NE, dtype=most_N.dtype)
        for words in _chunks(V, LOGITS // len(x_NE) // 16 * 16):  # from one aligned row to the next
            logits = _logits(x_NE, weight_VE[words], bias_V[words])
            probabilities = logits.sub_(most_N[:, None]).exp_().div_(total_N[:, None])  # a log-sum-exp has lost digits
            among = targets_N - words.start
            mine = (among >= 0) & (among < logits.shape[1])
            error = _less_at(probabilities, among.where(mine, 0), mine[:, None].to(most_N.dtype)).to(x_NE.dtype)
            dx_NE += error @ weight_VE[words]
            d_weight[words] = (error.t() @ scaled_NE)[: V - words.start, :E]
            d_bias[words] = (error.t() @ scale_N1)[: V - words.start, 0]
        return cut(dx_NE * scale_N1, E), d_weight, d_bias, None, None


def _logits(x_NE: Tensor, weight_VE: Tensor, bias_V: Tensor) -> Tensor:
    """In float32 or better."""
    logits = torch.addmm(bias_V, x_NE, weight_VE.t())
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _at(logits: Tensor, targets_N: Tensor) -> Tensor:
    return logits.gather(1, targets_N[:, None])[:, 0]


def _less_at(probabilities: Tensor, targets_N: Tensor, less: Tensor | float) -> Tensor:
    """The gradient of the loss by the logits, in place of the probabilities."""
    less_N1 = torch.zeros_like(probabilities[:, :1]) - less
    return probabilities.scatter_add_(1, targets_N[:, None], less_N1)


def _chunks(n: int, size: int) -> list[slice]:
    """At least one, of at least one: without any token, gradients are zeros."""
    size = max(1, size)
    return [slice(start, start + size) for start in range(0, max(n, 1), size)]

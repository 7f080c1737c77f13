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
    size = max(1, (IN_CACHE if x_NE.device.type == "cpu" else LOGITS) // len(weight_VE))
    chunks = [
        F.cross_entropy(_logits(x_NE[rows], weight_VE, bias_V), targets_N[rows], reduction="none")
        for rows in _chunks(len(x_NE), size)
    ]
    return torch.cat(chunks)


class LinearCrossEntropy(torch.autograd.Function):
    """Goes over chunks of tokens, forward and again backward; logits that fit into one chunk are not computed again."""

    @staticmethod
    def forward(
        ctx: Any, x_NE: Tensor, weight_VE: Tensor, bias_V: Tensor, targets_N: Tensor, dtype: torch.dtype
    ) -> Tensor:
        ctx.given, ctx.rows, ctx.sizes = weight_VE.dtype, max(1, LOGITS // len(weight_VE)), weight_VE.shape
        x_NE, weight_VE, bias_V = _aligned(x_NE, weight_VE, bias_V, dtype)
        nll_N = x_NE.new_empty(len(x_NE), dtype=torch.promote_types(dtype, torch.float32))
        error = None
        for rows in _chunks(len(x_NE), ctx.rows):
            logits, probabilities = _softmax(x_NE[rows], weight_VE, bias_V)
            # The likeliest word's probability, unlike the target's, is never too small to take its logarithm.
            lse_N = logits.amax(-1) - probabilities.amax(-1).log()
            nll_N[rows] = lse_N - logits.gather(1, targets_N[rows, None])[:, 0]
            if len(x_NE) <= ctx.rows and any(ctx.needs_input_grad):
                error = _less_one_at(probabilities, targets_N).to(dtype)
        ctx.save_for_backward(x_NE, weight_VE, bias_V, targets_N, error)
        return nll_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_nll_N: Tensor) -> tuple[Tensor | None, ...]:
        x_NE, weight_VE, bias_V, targets_N, error = ctx.saved_tensors
        dx_NE, d_weight, d_bias = torch.empty_like(x_NE), None, None
        for rows in _chunks(len(x_NE), ctx.rows):
            if len(x_NE) > ctx.rows:
                _, probabilities = _softmax(x_NE[rows], weight_VE, bias_V)
                error = _less_one_at(probabilities, targets_N[rows]).to(x_NE.dtype)
            scale = d_nll_N[rows, None].to(x_NE.dtype)
            dx_NE[rows] = (error @ weight_VE) * scale
            dw_VE, db_V = cut(error.t() @ (x_NE[rows] * scale), *ctx.sizes), cut(error.t() @ scale, ctx.sizes[0], 1)
            d_weight = dw_VE.to(ctx.given) if d_weight is None else d_weight.add_(dw_VE)
            d_bias = db_V[:, 0].to(ctx.given) if d_bias is None else d_bias.add_(db_V[:, 0])
        return cut(dx_NE, ctx.sizes[1]), d_weight, d_bias, None, None


def _softmax(x_NE: Tensor, weight_VE: Tensor, bias_V: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and probabilities (N, V)."""
    logits = _logits(x_NE, weight_VE, bias_V)
    return logits, logits.softmax(-1)


def _logits(x_NE: Tensor, weight_VE: Tensor, bias_V: Tensor) -> Tensor:
    """In float32 or better."""
    logits = torch.addmm(bias_V, x_NE, weight_VE.t())
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _less_one_at(probabilities: Tensor, targets_N: Tensor) -> Tensor:
    """The gradient of the loss by the logits, in place of the probabilities."""
    return probabilities.scatter_add_(1, targets_N[:, None], probabilities.new_full((len(targets_N), 1), -1.0))


def _chunks(n: int, size: int) -> list[slice]:
    """At least one: without any token, gradients are zeros."""
    return [slice(start, start + size) for start in range(0, max(n, 1), size)]

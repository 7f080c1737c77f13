"""Cross entropy of a linear layer's outputs, computed in chunks without storing all logits.

Shapes: N tokens, E input size, V vocabulary entries; a chunk is a slice of N or of V.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from tbptt.device import matmul_dtype
from tbptt.models.alignment import aligned, crop, pad_to
from tbptt.models.soft_cap import soft_cap

MAX_LOGITS = 2**25  # per chunk: 128 MiB in float32
MAX_LOGITS_CPU = 2**19  # per chunk on a CPU without a backward pass: 2 MiB, which fit in its cache

# Training on a CPU, 16 bits pay only from more tokens than this: weight and gradient are cast, whose time does not
# depend on the tokens, and oneDNN compiles a product anew for every number of tokens. Evaluation keeps to 16 bits, so
# that its precision does not depend on the number of lanes.
FEW_TOKENS_CPU = 128
READ_AT_ONCE = {"cpu"}  # devices whose numbers the host need not wait for


def linear_cross_entropy(
    x_NE: Tensor, weight_VE: Tensor, bias_V: Tensor | None, targets_N: Tensor, cap: float | None = None
) -> Tensor:
    """-log softmax(x W^T + b)[target] of every token: (N,), in nats.

    Autocast applies to the matrix products only, but in training not to those of few tokens on a CPU. With
    `cap`, logits are soft-capped; all of them are then held at once.
    """
    few = torch.is_grad_enabled() and x_NE.device.type == "cpu" and len(x_NE) <= FEW_TOKENS_CPU
    dtype = weight_VE.dtype if few else matmul_dtype(x_NE)
    bias_V = weight_VE.new_zeros(len(weight_VE)) if bias_V is None else bias_V
    with torch.autocast(x_NE.device.type, enabled=False):
        if cap is not None:
            logits = soft_cap(_logits(x_NE.to(dtype), weight_VE.to(dtype), bias_V.to(dtype)), cap)
            return F.cross_entropy(logits, targets_N, reduction="none")
        if torch.is_grad_enabled():
            return LinearCrossEntropy.apply(x_NE, weight_VE, bias_V, targets_N, dtype)
        return _forward_only(*_cast_and_pad(x_NE, weight_VE, bias_V, dtype), targets_N)


def _cast_and_pad(x_NE: Tensor, weight_VE: Tensor, bias_V: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Cast to `dtype` and pad: columns with zeros, the vocabulary with entries of probability 0 (bias -inf)."""
    (V, E), device = weight_VE.shape, weight_VE.device
    height, width = aligned(V, device), aligned(E, device)
    bias = F.pad(bias_V.to(dtype), (0, height - V), value=-torch.inf) if height > V else bias_V.to(dtype)
    return pad_to(x_NE, (width,), dtype), pad_to(weight_VE, (height, width), dtype), bias


def _forward_only(x_NE: Tensor, weight_VE: Tensor, bias_V: Tensor, targets_N: Tensor) -> Tensor:
    """The losses, with nothing saved for a backward pass."""
    size = (MAX_LOGITS_CPU if x_NE.device.type == "cpu" else MAX_LOGITS) // len(weight_VE)
    chunks = [
        F.cross_entropy(_logits(x_NE[rows], weight_VE, bias_V), targets_N[rows], reduction="none")
        for rows in _chunks(len(x_NE), size)
    ]
    return torch.cat(chunks)


class LinearCrossEntropy(torch.autograd.Function):
    """Up to MAX_LOGITS logits are computed once, and their gradient is saved. More are recomputed in the backward pass.

    In that case the forward pass loops over chunks of tokens, and the backward pass over chunks of vocabulary entries,
    so that each row of the weight's gradient is written once.
    """

    @staticmethod
    def forward(
        ctx: Any, x_NE: Tensor, weight_VE: Tensor, bias_V: Tensor, targets_N: Tensor, dtype: torch.dtype
    ) -> Tensor:
        ctx.weight_dtype, ctx.sizes = weight_VE.dtype, weight_VE.shape
        x_NE, weight_VE, bias_V = _cast_and_pad(x_NE, weight_VE, bias_V, dtype)
        if len(x_NE) * len(weight_VE) > MAX_LOGITS:
            max_N, sum_exp_N, nll_N = x_NE.new_empty(3, len(x_NE), dtype=torch.promote_types(dtype, torch.float32))
            for rows in _chunks(len(x_NE), MAX_LOGITS // len(weight_VE)):
                logits = _logits(x_NE[rows], weight_VE, bias_V)
                max_N[rows] = logits.amax(-1)
                target_N = _at_targets(logits, targets_N[rows])
                sum_exp_N[rows] = logits.sub_(max_N[rows, None]).exp_().sum(-1)
                nll_N[rows] = max_N[rows] - target_N + sum_exp_N[rows].log()
            ctx.save_for_backward(x_NE, weight_VE, bias_V, targets_N, max_N, sum_exp_N)
            return nll_N
        logits = _logits(x_NE, weight_VE, bias_V)
        probabilities = logits.softmax(-1)
        nll_N = _losses(logits, probabilities, targets_N)
        if any(ctx.needs_input_grad):
            error_NV = _subtract_at(probabilities, targets_N, 1.0)
            ctx.save_for_backward(x_NE, weight_VE, error_NV.to(dtype))
        return nll_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_nll_N: Tensor) -> tuple[Tensor | None, ...]:
        x_NE, weight_VE, *rest = ctx.saved_tensors
        (V, E), scale_N1 = ctx.sizes, d_nll_N[:, None].to(x_NE.dtype)
        scaled_NE = x_NE * scale_N1
        if len(rest) == 1:
            (error_NV,) = rest
            dx_NE = (error_NV @ weight_VE) * scale_N1
            d_weight = crop(error_NV.t() @ scaled_NE, V, E).to(ctx.weight_dtype)
            d_weight = d_weight.contiguous()  # TiedLookup adds to its rows
            d_bias = crop(error_NV.t() @ scale_N1, V, 1)[:, 0].to(ctx.weight_dtype)
            return crop(dx_NE, E), d_weight, d_bias, None, None
        bias_V, targets_N, max_N, sum_exp_N = rest
        d_weight = weight_VE.new_empty(V, E, dtype=ctx.weight_dtype)
        d_bias = bias_V.new_empty(V, dtype=ctx.weight_dtype)
        dx_NE = torch.zeros_like(x_NE, dtype=max_N.dtype)
        for entries in _chunks(V, MAX_LOGITS // len(x_NE) // 16 * 16):  # aligned chunk borders
            logits = _logits(x_NE, weight_VE[entries], bias_V[entries])
            # Maximum and sum are kept apart: exp(logits - lse) would be less accurate.
            probabilities = logits.sub_(max_N[:, None]).exp_().div_(sum_exp_N[:, None])
            local_N = targets_N - entries.start
            inside_N = (local_N >= 0) & (local_N < logits.shape[1])
            one_hot_N1 = inside_N[:, None].to(max_N.dtype)
            error = _subtract_at(probabilities, local_N.where(inside_N, 0), one_hot_N1).to(x_NE.dtype)
            dx_NE += error @ weight_VE[entries]
            d_weight[entries] = (error.t() @ scaled_NE)[: V - entries.start, :E]
            d_bias[entries] = (error.t() @ scale_N1)[: V - entries.start, 0]
        return crop(dx_NE * scale_N1, E), d_weight, d_bias, None, None


def _logits(x_NE: Tensor, weight_VE: Tensor, bias_V: Tensor) -> Tensor:
    """x W^T + b in float32 (float64 for float64 inputs)."""
    logits = torch.addmm(bias_V, x_NE, weight_VE.t())
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _losses(logits: Tensor, probabilities: Tensor, targets_N: Tensor) -> Tensor:
    """-log p of every token's target, from logits where that underflows."""
    p_N = _at_targets(probabilities, targets_N)
    if logits.device.type in READ_AT_ONCE and (p_N > 1e-30).all():
        return -p_N.log()
    # The largest probability never underflows, so that its logarithm is finite.
    return logits.amax(-1) - probabilities.amax(-1).log() - _at_targets(logits, targets_N)


def _at_targets(x_NV: Tensor, targets_N: Tensor) -> Tensor:
    """The entry of every token's target: (N,)."""
    return x_NV.gather(1, targets_N[:, None])[:, 0]


def _subtract_at(probabilities: Tensor, targets_N: Tensor, one_hot: Tensor | float) -> Tensor:
    """Subtract `one_hot` at the targets, in place: the gradient of the loss with respect to the logits."""
    minus_N1 = torch.zeros_like(probabilities[:, :1]) - one_hot
    return probabilities.scatter_add_(1, targets_N[:, None], minus_N1)


def _chunks(n: int, size: int) -> list[slice]:
    """Slices of at least 1 row that cover n rows; at least one slice, so that n = 0 gives zero gradients."""
    size = max(1, size)
    return [slice(start, start + size) for start in range(0, max(n, 1), size)]

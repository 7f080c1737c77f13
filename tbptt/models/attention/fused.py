"""Relative attention by Triton kernels, registered as a custom op for autograd and torch.compile.

Shapes: B lanes, T queries, K keys, H heads, E head size; axis 2 of kv is (key, value).
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
from torch import Tensor

from tbptt.models.attention import kernels

LOG2_E = math.log2(math.e)
LANE_GROUPS = 16  # partial sums over lanes in the gradient of r, computed by parallel programs


def fused_relative_attention(
    q_BTHE: Tensor,
    kv_BK2HE: Tensor,
    r_KHE: Tensor,
    content_bias_HE: Tensor,
    position_bias_HE: Tensor,
    window: int | None,
    dropout: float,
    scale: float,
    since_BT: Tensor | None = None,
) -> Tensor:
    """The same as `relative_attention` without storing the scores: (B, T, H, E).

    All tensors but the biases have the same dtype: float32, bfloat16 or float16. Products are accumulated in float32.
    With `window`, a query sees the last `window` keys, its own position included. `scale` is 1 / sqrt(head size); where
    heads are zero-padded, E is larger than the head size. With `since_BT` (int64), a query sees itself and at most that
    many keys before it.
    """
    if dropout:  # the mask depends only on this seed, so that the backward pass can regenerate it
        seed = torch.randint(2**31 - 1, (1,), device=q_BTHE.device)
    else:
        seed = torch.zeros(1, dtype=torch.int64, device=q_BTHE.device)
    window = window or kv_BK2HE.shape[1]
    tensors = (x.contiguous() for x in (q_BTHE, kv_BK2HE, r_KHE, content_bias_HE, position_bias_HE))
    since_BT = None if since_BT is None else since_BT.contiguous()
    return _forward_op(*tensors, seed, since_BT, window, dropout, scale)[0]


def tiling(d_head: int, dtype: torch.dtype, forward: bool) -> dict[str, int]:
    """Tile sizes N and P, warps and stages that fit registers and shared memory (see experiments/kernels.py)."""
    padded = max(16, triton.next_power_of_2(d_head))
    row = padded * dtype.itemsize  # bytes
    if row <= 128:
        return {"P": padded, "N": 64 if forward else 32, "num_warps": 8 if forward else 4, "num_stages": 2}
    return {"P": padded, "N": 32 if row <= 256 else 16, "num_warps": 8 if row <= 256 else 4, "num_stages": 1}


def _options(q_BTHE: Tensor, dropout: float, forward: bool) -> dict[str, Any]:
    """The compile-time arguments of a kernel."""
    H, E = q_BTHE.shape[2:]
    precision = "tf32" if torch.backends.cuda.matmul.allow_tf32 else "tf32x3"  # for float32 operands
    return {"H": H, "E": E, "PRECISION": precision, "DROP": dropout > 0, **tiling(E, q_BTHE.dtype, forward)}


@torch.library.custom_op("tbptt::relative_attention", mutates_args=())
def _forward_op(
    q: Tensor,
    kv: Tensor,
    r: Tensor,
    u: Tensor,
    v: Tensor,
    seed: Tensor,
    since: Tensor | None,
    window: int,
    dropout: float,
    scale: float,
) -> tuple[Tensor, Tensor]:
    (B, T, H, _), K = q.shape, kv.shape[1]
    options = _options(q, dropout, forward=True)
    y, lse = torch.empty_like(q), q.new_empty(B, H, T, dtype=torch.float32)
    programs = B * H * triton.cdiv(T, options["N"])
    with torch.cuda.device_of(q):  # Triton launches on the current GPU
        kernels.forward[(programs,)](
            q, kv, r, u, v, seed, since, y, lse, T, K, window, scale * LOG2_E, dropout, **options
        )
    return y, lse


@_forward_op.register_fake
def _(q, kv, r, u, v, seed, since, window, dropout, scale):
    B, T, H, _ = q.shape
    return torch.empty_like(q), q.new_empty(B, H, T, dtype=torch.float32)


@torch.library.custom_op("tbptt::relative_attention_backward", mutates_args=())
def _backward_op(
    q: Tensor,
    kv: Tensor,
    r: Tensor,
    u: Tensor,
    v: Tensor,
    seed: Tensor,
    since: Tensor | None,
    y: Tensor,
    lse: Tensor,
    dy: Tensor,
    window: int,
    dropout: float,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    (B, T, H, E), K = q.shape, kv.shape[1]
    options = _options(q, dropout, forward=False)
    tile = options["N"]
    query_tiles, group_size = triton.cdiv(T, tile), triton.cdiv(B, min(B, LANE_GROUPS))
    groups = triton.cdiv(B, group_size)
    dy, dq, dkv, delta = dy.contiguous(), torch.empty_like(q), torch.empty_like(kv), torch.empty_like(lse)
    du_partial, dv_partial = (q.new_empty(B, H, query_tiles, E, dtype=torch.float32) for _ in range(2))
    dr_partial = q.new_empty(groups, K, H, E, dtype=torch.float32)
    inputs, sizes = (q, kv, r, u, v, seed, since), (T, K, window, scale * LOG2_E, scale, dropout)
    with torch.cuda.device_of(q):
        kernels.backward_queries[(B * H * query_tiles,)](
            *inputs, y, lse, dy, dq, du_partial, dv_partial, delta, *sizes, **options
        )
        kernels.backward_keys[(B * H * triton.cdiv(K, tile),)](*inputs, lse, dy, delta, dkv, *sizes, **options)
        kernels.backward_positions[(triton.cdiv(K + -T % tile, tile), H, groups)](
            *inputs, lse, dy, delta, dr_partial, B, *sizes, group_size, **options
        )
    du, dv = du_partial.sum((0, 2)).to(u.dtype), dv_partial.sum((0, 2)).to(v.dtype)
    return dq, dkv, dr_partial.sum(0).to(r.dtype), du, dv


@_backward_op.register_fake
def _(q, kv, r, u, v, seed, since, y, lse, dy, window, dropout, scale):
    return tuple(torch.empty_like(x) for x in (q, kv, r, u, v))


def _setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
    *tensors, ctx.window, ctx.dropout, ctx.scale = inputs
    ctx.save_for_backward(*tensors, *output)


def _backward(ctx: Any, dy: Tensor, _: Tensor) -> tuple:
    return *_backward_op(*ctx.saved_tensors, dy, ctx.window, ctx.dropout, ctx.scale), *[None] * 5


_forward_op.register_autograd(_backward, setup_context=_setup_context)

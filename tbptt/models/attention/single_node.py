"""Relative attention and its linear maps as one node of autograd's graph, with the gradient by hand, for training on a
CPU.

There, to start an operation takes as long as a small one, and one thread starts them for all. This takes fewer of them
than autograd makes of the definition in `relative.py`.

Shapes: B lanes, T queries (the segment), M memory positions, K = M + T keys, H heads, E head size, D model size,
F = H E, N = B T, C = B K. P = H B pairs of head and lane, in that order: batched products then read whole matrices. An
axis 2 is of queries that meet contents and positions, or of keys and values.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tbptt.device import matmul_dtype
from tbptt.models.dropout import dropout_mask


def single_node_attention(
    x_BTD: Tensor,
    memory_BMD: Tensor,
    positions_KD: Tensor,
    weights: tuple[Tensor, ...],
    content_bias_HE: Tensor,
    position_bias_HE: Tensor,
    mask: Tensor,
    dropout: float,
) -> Tensor:
    """The output (B, T, D) of `RelativeAttention`, without second gradients, and without a gradient of the positions.

    The weights are those of queries, of keys and values, of positions, and of the output.
    """
    dtype = matmul_dtype(x_BTD)
    with torch.autocast(x_BTD.device.type, enabled=False):
        return SingleNodeAttention.apply(
            x_BTD, memory_BMD, *weights, content_bias_HE, position_bias_HE, positions_KD, mask, dropout, dtype
        )


class SingleNodeAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx,
        x_BTD,
        memory_BMD,
        w_query,
        w_key_value,
        w_position,
        w_output,
        u_HE,
        v_HE,
        positions_KD,
        mask,
        dropout,
        dtype,
    ):
        (B, T, D), M, (H, E) = x_BTD.shape, memory_BMD.shape[1], u_HE.shape
        ctx.sizes, ctx.scale, ctx.weight_dtype = (B, T, M, H, E), 1 / math.sqrt(E), w_query.dtype
        # First the rows of all memories, then those of all segments: each part is one matrix.
        context_CD = x_BTD.new_empty(B * (M + T), D, dtype=dtype)
        context_CD[: B * M].view(B, M, D).copy_(memory_BMD)
        context_CD[B * M :].view(B, T, D).copy_(x_BTD)
        w_query, w_key_value, w_position, w_output = (w.to(dtype) for w in (w_query, w_key_value, w_position, w_output))
        positions_KD = positions_KD.to(dtype)

        bias_2H11E = (torch.stack([u_HE, v_HE]) * ctx.scale).to(dtype)[:, :, None, None]
        q_HBTE = (context_CD[B * M :] @ w_query.t()).view(B, T, H, E).permute(2, 0, 1, 3)
        q_2HBTE = context_CD.new_empty(2, H, B, T, E)
        torch.add(bias_2H11E, q_HBTE, alpha=ctx.scale, out=q_2HBTE)
        kv_2HBKE = context_CD.new_empty(2, H, B, M + T, E)
        for part, rows in zip(kv_2HBKE.split([M, T], dim=3), by_lane(context_CD @ w_key_value.t(), ctx.sizes)):
            part.copy_(rows)
        r_HRE = context_CD.new_zeros(H, M + T + 1, E)  # with the padding of `position_scores`
        r_HRE[:, :-1] = (positions_KD @ w_position.t()).view(M + T, H, E).transpose(0, 1)

        k_PKE, v_PKE = kv_2HBKE.flatten(1, 2).unbind()
        table_HNR = torch.bmm(q_2HBTE[1].flatten(1, 2), r_HRE.mT)
        scores_PTK = (shifted(table_HNR.view(H, B, -1), T) + mask.to(dtype)).flatten(0, 1)
        weights_PTK = scores_PTK.baddbmm_(q_2HBTE[0].flatten(0, 1), k_PKE.mT).softmax(-1)
        kept_PTK = dropout_mask(weights_PTK, dropout) if dropout else None
        y_PTE = torch.bmm(dropped(weights_PTK, kept_PTK), v_PKE)
        y_NF = y_PTE.view(H, B, T, E).permute(1, 2, 0, 3).reshape(B * T, H * E)
        maps = w_query, w_key_value, w_output
        ctx.save_for_backward(context_CD, positions_KD, *maps, q_2HBTE, kv_2HBKE, r_HRE, weights_PTK, kept_PTK, y_NF)
        return (y_NF @ w_output.t()).view(B, T, D)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_BTD: Tensor) -> tuple[Tensor | None, ...]:
        context_CD, positions_KD, *maps, q_2HBTE, kv_2HBKE, r_HRE, weights_PTK, kept_PTK, y_NF = ctx.saved_tensors
        (B, T, M, H, E), (w_query, w_key_value, w_output), dy_ND = ctx.sizes, maps, dy_BTD.flatten(0, 1)
        k_PKE, v_PKE = kv_2HBKE.flatten(1, 2).unbind()
        dy_PTE = (dy_ND @ w_output).view(B, T, H, E).permute(2, 0, 1, 3).reshape(H * B, T, E)

        dq_2HBTE, dkv_2HBKE = torch.empty_like(q_2HBTE), torch.empty_like(kv_2HBKE)
        torch.bmm(dropped(weights_PTK, kept_PTK).mT, dy_PTE, out=dkv_2HBKE[1].flatten(0, 1))
        d_weights_PTK = dropped(torch.bmm(dy_PTE, v_PKE.mT), kept_PTK)
        ds_PTK = torch.ops.aten._softmax_backward_data(d_weights_PTK, weights_PTK, -1, weights_PTK.dtype)
        torch.bmm(ds_PTK.mT, q_2HBTE[0].flatten(0, 1), out=dkv_2HBKE[0].flatten(0, 1))
        torch.bmm(ds_PTK, k_PKE, out=dq_2HBTE[0].flatten(0, 1))
        d_table_HNR = ds_PTK.new_empty(H, B * T, M + T + 1)
        d_table_HBX = d_table_HNR.view(H, B, -1)
        d_table_HBX[..., : T - 1], d_table_HBX[..., -1] = 0, 0  # what `shifted` leaves out
        shifted(d_table_HBX, T).copy_(ds_PTK.view(H, B, T, -1))
        torch.bmm(d_table_HNR, r_HRE, out=dq_2HBTE[1].flatten(1, 2))
        dr_HRE = torch.bmm(d_table_HNR.mT, q_2HBTE[1].flatten(1, 2))
        dr_KF = dr_HRE[:, :-1].transpose(0, 1).reshape(M + T, H * E)

        d_bias_2HE = dq_2HBTE.sum((2, 3), dtype=ctx.weight_dtype) * ctx.scale
        dq_BTHE = dq_2HBTE.new_empty(B, T, H, E)
        torch.add(*dq_2HBTE.permute(0, 2, 3, 1, 4), out=dq_BTHE)
        dq_NF = dq_BTHE.mul_(ctx.scale).view(B * T, H * E)
        dkv_C2F = dkv_2HBKE.new_empty(len(context_CD), 2 * H * E)
        for rows, part in zip(by_lane(dkv_C2F, ctx.sizes), dkv_2HBKE.split([M, T], dim=3)):
            rows.copy_(part)
        d_memory = (dkv_C2F[: B * M] @ w_key_value).view(B, M, len(w_output)) if ctx.needs_input_grad[1] else None
        dx_BTD = (dq_NF @ w_query).addmm_(dkv_C2F[B * M :], w_key_value).view(dy_BTD.shape)
        d_maps = dq_NF.t() @ context_CD[B * M :], dkv_C2F.t() @ context_CD, dr_KF.t() @ positions_KD, dy_ND.t() @ y_NF
        return dx_BTD, d_memory, *(d.to(ctx.weight_dtype) for d in d_maps), *d_bias_2HE, None, None, None, None


def by_lane(rows_C2F: Tensor, sizes: tuple[int, ...]) -> list[Tensor]:
    """Keys and values of the memories and of the segments, (2, H, B, M, E) and (2, H, B, T, E): views of the rows."""
    B, T, M, H, E = sizes
    parts = rows_C2F.split([B * M, B * T])
    return [part.view(B, n, 2, H, E).permute(2, 3, 0, 1, 4) for part, n in zip(parts, (M, T))]


def shifted(table_HBX: Tensor, T: int) -> Tensor:
    """The scores (H, B, T, K) in a table of T (K + 1) entries, as in `position_scores`: a view."""
    return table_HBX[..., T - 1 : table_HBX.shape[2] - 1].unflatten(2, (T, -1))


def dropped(x_PTK: Tensor, kept_PTK: Tensor | None) -> Tensor:
    return x_PTK if kept_PTK is None else x_PTK * kept_PTK

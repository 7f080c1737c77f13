"""The recurrence with one decay per head and token (SSD, Dao and Gu 2024, arXiv 2405.21060), in chunks.

    S_t = a_t S_(t-1) + k_t v_t^T,   o_t = S_t^T q_t

In a chunk that begins with S

    o_i = f_i S^T q_i + sum_(j<=i) d_ij (q_i k_j) v_j,   S <- kept S + sum_j e_j k_j v_j^T,

where d_ij, f_i, e_j and kept are the decays from j to i, from the start to i, from j to the end, and over the chunk.
On a CPU all of a chunk is computed, forward and backward, before the next one, while it lies in the processor's cache.

Shapes: B lanes, T tokens, N chunks of C tokens, K and V sizes of keys and values, H heads of values, G heads of queries
and keys, which serve R = H / G of them each; Q = B G, P = B H. The values that a group serves lie side by side, in one
matrix of R V columns.
"""

from __future__ import annotations

from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tbptt.models.mixers.chunks import (
    LogDecays,
    carry,
    document_starts,
    factors,
    heads_last,
    join_chunks,
    log_decay_gradient,
    split_chunks,
)


def scalar_decay_attention(
    q_BGTK: Tensor,
    k_BGTK: Tensor,
    v_BHTV: Tensor,
    log_decay_BHT: Tensor,
    S_BHKV: Tensor,
    chunk: int,
    since_BT: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Outputs (B, H, T, V), final state. On a CPU it has no second gradients."""
    if v_BHTV.device.type != "cpu" or torch.compiler.is_compiling():
        return all_chunks_at_once(q_BGTK, k_BGTK, v_BHTV, log_decay_BHT, S_BHKV, chunk, since_BT)
    inputs = (split_chunks(x, chunk) for x in (q_BGTK, k_BGTK, v_BHTV, log_decay_BHT))
    o_BHNCV, S_BHKV = ScalarDecay.apply(*inputs, S_BHKV, document_starts(since_BT, chunk))
    return join_chunks(o_BHNCV, v_BHTV.shape[2]), S_BHKV


def all_chunks_at_once(
    q_BGTK: Tensor,
    k_BGTK: Tensor,
    v_BHTV: Tensor,
    log_decay_BHT: Tensor,
    S_BHKV: Tensor,
    chunk: int,
    since_BT: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The same in plain operations: the definition, for GPUs without kernels and for torch.compile."""
    G, T = q_BGTK.shape[1:3]
    q, k = (split_chunks(x, chunk) for x in (q_BGTK, k_BGTK))
    v = split_chunks(v_BHTV, chunk)
    decays = LogDecays(split_chunks(log_decay_BHT, chunk), document_starts(since_BT, chunk))

    def grouped(x: Tensor) -> Tensor:
        return x.unflatten(1, (G, -1))

    scores = (q @ k.transpose(-1, -2)).unsqueeze(2)
    inside = (scores * grouped(factors(decays.between()))).flatten(1, 2) @ v
    at_end = v * factors(decays.to_end()).unsqueeze(-1)
    added = torch.einsum("bgnck,bgrncv->bgrnkv", k, grouped(at_end)).flatten(1, 2)
    starts, S_BHKV = carry(S_BHKV, factors(decays.across()), added)
    carried = torch.einsum("bgnck,bgrnkv->bgrncv", q, grouped(starts)).flatten(1, 2)
    return join_chunks(inside + carried * factors(decays.from_start()).unsqueeze(-1), T), S_BHKV


class Chunk(NamedTuple):
    """What the backward pass reads of a chunk."""

    q: Tensor  # (Q, C, K)
    k: Tensor  # (Q, C, K)
    d: Tensor  # (Q, R, C, C)
    f: Tensor  # (Q, C, R, 1)
    e: Tensor  # (Q, C, R, 1)
    kept: Tensor  # (Q, 1, R, 1)
    A: Tensor  # (q_i k_j) d_ij (P, C, C)
    v: Tensor  # (P, C, V)
    ev: Tensor  # (Q, C, R V)
    S: Tensor  # before the chunk (Q, K, R, V)


class ScalarDecay(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q_BGNCK, k_BGNCK, v_BHNCV, log_decay_BHNC, S_BHKV, start_BNC):
        (B, G), decays = q_BGNCK.shape[:2], LogDecays(log_decay_BHNC, start_BNC)
        gates = (
            factors(decays.between()).unflatten(1, (G, -1)).flatten(0, 1).unbind(2),
            *(_of_tokens(factors(x), G) for x in (decays.from_start(), decays.to_end(), decays.across().unsqueeze(-1))),
        )
        inputs = (x.unbind(2) for x in (q_BGNCK, k_BGNCK, v_BHNCV))
        o_BHNCV = heads_last(v_BHNCV)
        S, chunks = S_BHKV.unflatten(1, (G, -1)).transpose(2, 3).flatten(0, 1).contiguous(), []
        for q, k, v, o, d, f, e, kept in zip(*inputs, o_BHNCV.unbind(2), *gates):
            q, k, v = q.flatten(0, 1), k.flatten(0, 1), v.unflatten(1, (G, -1)).flatten(0, 1)
            ev, v = (v.transpose(1, 2) * e).flatten(2), v.flatten(0, 1)
            A = (torch.bmm(q, k.mT).unsqueeze(1) * d).flatten(0, 1)
            inside = torch.bmm(A, v).view(B, G, -1, *v.shape[1:]).transpose(2, 3)
            carried = torch.bmm(q, S.flatten(2)).view(inside.shape)
            torch.addcmul(inside, carried, f.unflatten(0, (B, G)), out=_by_group(o, G))
            if any(ctx.needs_input_grad):  # else its memory serves the next chunk
                chunks.append(Chunk(q, k, d, f, e, kept, A, v, ev, S))
            S = (S * kept).flatten(2).baddbmm_(k.mT, ev).view(S.shape)
        ctx.groups = G
        ctx.save_for_backward(v_BHNCV, o_BHNCV, *chain(*chunks))
        return o_BHNCV, S.unflatten(0, (B, G)).transpose(2, 3).flatten(1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx, do_BHNCV, dS_BHKV):
        v_BHNCV, o_BHNCV, *saved = ctx.saved_tensors
        chunks = [Chunk(*tensors) for tensors in zip(*[iter(saved)] * len(Chunk._fields))]
        (B, H, N, C, V), G, K = v_BHNCV.shape, ctx.groups, dS_BHKV.shape[2]
        dS = dS_BHKV.unflatten(1, (G, -1)).transpose(2, 3).flatten(0, 1).contiguous()
        dq, dk, dv = heads_last(v_BHNCV, G, K), heads_last(v_BHNCV, G, K), heads_last(v_BHNCV)
        S_dS = v_BHNCV.new_empty(N, B, H)
        by_chunk = zip(chunks, *(x.unbind(2) for x in (do_BHNCV, dq, dk, dv)), S_dS)
        for c, do, dq_n, dk_n, dv_n, S_dS_n in reversed(list(by_chunk)):
            do = do.unflatten(1, (G, -1)).flatten(0, 1)
            f_do, do = (do.transpose(1, 2) * c.f).flatten(2), do.flatten(0, 1)
            inside = torch.bmm(c.A.mT, do).view(B, G, -1, C, V).transpose(2, 3)
            later = torch.bmm(c.k, dS.flatten(2)).view(inside.shape)
            torch.addcmul(inside, later, c.e.unflatten(0, (B, G)), out=_by_group(dv_n, G))
            d_scores = (torch.bmm(do, c.v.mT).view(c.d.shape) * c.d).sum(1)
            d_queries = torch.bmm(d_scores, c.k).baddbmm_(f_do, c.S.flatten(2).mT)
            d_keys = torch.bmm(d_scores.mT, c.q).baddbmm_(c.ev, dS.flatten(2).mT)
            dq_n.copy_(d_queries.unflatten(0, (B, G)))
            dk_n.copy_(d_keys.unflatten(0, (B, G)))
            dS = (dS * c.kept).flatten(2).baddbmm_(c.q.mT, f_do).view(dS.shape)
            S_dS_n.copy_((c.S * dS).sum((1, 3)).view(B, H))
        d_log_decay = log_decay_gradient(o_BHNCV, do_BHNCV, v_BHNCV, dv, S_dS.permute(1, 2, 0).unsqueeze(-1))
        return dq, dk, dv, d_log_decay, dS.unflatten(0, (B, G)).transpose(2, 3).flatten(1, 2), None


def _of_tokens(x_BHNC: Tensor, groups: int) -> tuple[Tensor, ...]:
    """Factors of every chunk's values, each (Q, C, R, 1)."""
    return x_BHNC.unflatten(1, (groups, -1)).flatten(0, 1).permute(2, 0, 3, 1).unsqueeze(-1).unbind()


def _by_group(x_BHCV: Tensor, groups: int) -> Tensor:
    """(B, G, C, R, V), a view."""
    return x_BHCV.unflatten(1, (groups, -1)).transpose(2, 3)

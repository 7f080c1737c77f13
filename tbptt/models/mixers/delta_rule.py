"""The gated delta rule in chunks, with its gradient: a matrix of associations that forgets and edits.

    S_t = a_t (1 - b_t k_t k_t^T) S_(t-1) + b_t k_t v_t^T,   o_t = S_t^T q_t   (Yang et al. 2024, arXiv 2412.06464)

What is written under k_t is b_t y_t, y_t being v_t less what S held there. In a chunk that begins with S

    y_i = v_i - f_i S^T k_i - sum_(j<i) d_ij b_j (k_i k_j) y_j,   or (1 + A) y = v - f k S,
    o_i = f_i S^T q_i + sum_(j<=i) d_ij b_j (q_i k_j) y_j,   S <- kept S + sum_j e_j b_j k_j y_j^T,

where d_ij, f_i, e_j and kept are the decays from j to i, from the start to i, from j to the end, and over the chunk.
All of a chunk is computed, forward and backward, before the next one, while it lies in the processor's cache; autograd
would pass over all chunks for every operation.

Shapes: B lanes, H heads, P = B H, T tokens, K and V sizes of keys and values, N chunks of C tokens, R = 2 C rows: the
queries of a chunk and then its keys, since both meet the keys and S. States (B, H, K, V).
"""

from __future__ import annotations

from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tbptt.models.mixers.chunks import (
    LogDecays,
    document_starts,
    factors,
    heads_last,
    join_chunks,
    log_decay_gradient,
    split_chunks,
)

SMALLEST_BETA = 1e-20  # the gradient of beta is divided by it; far below what rounding leaves


def gated_delta_rule(
    q_BHTK: Tensor,
    k_BHTK: Tensor,
    v_BHTV: Tensor,
    log_decay_BHT: Tensor,
    beta_BHT: Tensor,
    S_BHKV: Tensor,
    chunk: int,
    since_BT: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Outputs (B, H, T, V), final state. It has no second gradients."""
    inputs = (split_chunks(x, chunk) for x in (q_BHTK, k_BHTK, v_BHTV, log_decay_BHT, beta_BHT))
    o_BHNCV, S_BHKV = GatedDeltaRule.apply(*inputs, S_BHKV, document_starts(since_BT, chunk))
    return join_chunks(o_BHNCV, v_BHTV.shape[2]), S_BHKV


class Chunk(NamedTuple):
    """What the backward pass reads of a chunk."""

    db: Tensor  # d_ij b_j (P, 1, C, C), for queries and keys
    f: Tensor  # (P, 1, C, 1)
    eb: Tensor  # e_j b_j (P, C, 1)
    kept: Tensor  # (P, 1, 1)
    rows: Tensor  # queries and keys (P, R, K)
    scores: Tensor  # their products with the keys, times db (P, R, C)
    minus_inverse: Tensor  # -(1 + A)^-1 (P, C, C)
    f_rows: Tensor  # (P, R, K)
    eb_keys: Tensor  # (P, C, K)
    y: Tensor  # (P, C, V)
    S: Tensor  # before the chunk (P, K, V)


class GatedDeltaRule(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q_BHNCK, k_BHNCK, v_BHNCV, log_decay_BHNC, beta_BHNC, S_BHKV, start_BNC):
        heads, C = S_BHKV.shape[:2], beta_BHNC.shape[-1]
        decays, b = LogDecays(log_decay_BHNC, start_BNC), beta_BHNC.clamp(min=SMALLEST_BETA)
        db = factors(decays.between()).mul_(b.unsqueeze(-2)).unsqueeze(3)
        f, eb = factors(decays.from_start())[..., None, :, None], (factors(decays.to_end()) * b).unsqueeze(-1)
        gates = (x.flatten(0, 1).unbind(1) for x in (db, f, eb, factors(decays.across())[..., None, None]))
        o_BHNCV, S, chunks = heads_last(v_BHNCV), S_BHKV.flatten(0, 1), []
        minus_one = -torch.eye(C, dtype=S.dtype, device=S.device).expand(len(S), C, C)
        for q, k, v, o_n, db, f, eb, kept in zip(*(x.unbind(2) for x in (q_BHNCK, k_BHNCK, v_BHNCV, o_BHNCV)), *gates):
            rows = torch.cat([q, k], dim=2).flatten(0, 1)
            keys = rows[:, C:]
            scores = torch.bmm(rows, keys.mT)
            of_queries, A = halves(scores).mul_(db).unbind(1)
            # Transposed, since LAPACK counts along columns: else A would be copied into them. Its diagonal is not read.
            minus_inverse = torch.linalg.solve_triangular(
                A.mT, minus_one, upper=True, left=False, unitriangular=True
            ).mT
            f_rows = (halves(rows) * f).flatten(1, 2)
            from_queries, from_keys = halves(torch.bmm(f_rows, S)).unbind(1)
            y = torch.bmm(minus_inverse, (from_keys.unflatten(0, heads) - v).flatten(0, 1))
            o_n.copy_(torch.baddbmm(from_queries, of_queries, y).unflatten(0, heads))
            eb_keys = keys * eb
            if any(ctx.needs_input_grad):  # else its memory serves the next chunk
                chunks.append(Chunk(db, f, eb, kept, rows, scores, minus_inverse, f_rows, eb_keys, y, S))
            S = (S * kept).baddbmm_(eb_keys.mT, y)
        ctx.save_for_backward(v_BHNCV, o_BHNCV, b, *chain(*chunks))
        return o_BHNCV, S.view_as(S_BHKV)

    @staticmethod
    @once_differentiable
    def backward(ctx, do_BHNCV, dS_BHKV):
        """Of y first: (1 + A)^T dv = dy, and b_j y_j being what is written, its gradient is dv_j / b_j."""
        v_BHNCV, o_BHNCV, b, *saved = ctx.saved_tensors
        chunks = [Chunk(*tensors) for tensors in zip(*[iter(saved)] * len(Chunk._fields))]
        heads, C, K, dS = b.shape[:2], b.shape[-1], dS_BHKV.shape[2], dS_BHKV.flatten(0, 1)
        dq, dk, dv = (heads_last(v_BHNCV, width=width) for width in (K, K, None))
        y_dv, S_dS = torch.empty_like(b), torch.empty_like(b[..., :1])
        by_chunk = zip(chunks, *(x.unbind(2) for x in (do_BHNCV, dq, dk, dv, y_dv, S_dS)))
        for c, do_n, dq_n, dk_n, dv_n, y_dv_n, S_dS_n in reversed(list(by_chunk)):
            d_outputs = do_n.flatten(0, 1)
            dy = torch.bmm(c.scores[:, :C].mT, d_outputs).baddbmm_(c.eb_keys, dS)
            minus_dv = torch.bmm(c.minus_inverse.mT, dy)
            d_held = torch.cat([d_outputs, minus_dv], dim=1)
            d_scores = torch.bmm(d_held, c.y.mT)
            d_scores[:, C:].tril_(-1)
            halves(d_scores).mul_(c.db)
            d_rows = torch.bmm(d_held, c.S.mT)
            halves(d_rows).mul_(c.f)
            d_rows.baddbmm_(d_scores, c.rows[:, C:])
            d_keys = torch.bmm(c.y, dS.mT).mul_(c.eb).baddbmm_(d_scores.mT, c.rows)
            dS = (dS * c.kept).baddbmm_(c.f_rows.mT, d_held)
            of_queries, of_keys = d_rows.unflatten(0, heads).chunk(2, dim=2)
            dq_n.copy_(of_queries)
            torch.add(of_keys, d_keys.unflatten(0, heads), out=dk_n)
            torch.neg(minus_dv.unflatten(0, heads), out=dv_n)
            y_dv_n.copy_((c.y * minus_dv).sum(-1).neg_().unflatten(0, heads))
            S_dS_n.copy_((c.S * dS).sum((1, 2)).view(*heads, 1))
        d_log_decay = log_decay_gradient(o_BHNCV, do_BHNCV, v_BHNCV, dv, S_dS)
        return dq, dk, dv, d_log_decay, y_dv / b, dS.view_as(dS_BHKV), None


def halves(x_PRK: Tensor) -> Tensor:
    """(P, 2, C, K): of queries, of keys."""
    return x_PRK.unflatten(1, (2, -1))

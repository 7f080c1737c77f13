"""The recurrence of RWKV-7 (Peng et al. 2025, arXiv 2503.14456), in chunks: its state decays by channels and is edited.

    S_t = diag(e^(w_t)) S_(t-1) + b_t (a_t^T S_(t-1)) + k_t v_t^T,   o_t = S_t^T r_t

No mixer here is RWKV-7, whose layers share values and have an initialisation of their own: this is for those who build
one. What is written under b_t is u_t = S_(t-1)^T a_t. In a chunk that begins with S, where D decays from token j to i
and F from the start to i, both by channels, and D- and F- end one token earlier,

    (1 - A) u = (a F-) S + (a D- k) v,   A = a D- b below the diagonal,
    o = (r F) S + (r D b) u + (r D k) v up to the diagonal.

Shapes: B lanes, H heads, T tokens, N chunks of C tokens, K and V sizes of keys and values. States (B, H, K, V).
"""

from __future__ import annotations

import torch
from torch import Tensor

from tbptt.models.mixers.chunks import LogDecays, document_starts, factors, join_chunks, split_chunks


def low_rank_decay(
    r_BHTK: Tensor,
    w_BHTK: Tensor,
    k_BHTK: Tensor,
    v_BHTV: Tensor,
    a_BHTK: Tensor,
    b_BHTK: Tensor,
    S_BHKV: Tensor,
    chunk: int,
    since_BT: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Outputs (B, H, T, V), final state. `w` are log decays; every pair of tokens of a chunk has its own factors."""
    r, w, k, v, a, b = (split_chunks(x, chunk) for x in (r_BHTK, w_BHTK, k_BHTK, v_BHTV, a_BHTK, b_BHTK))
    decays = LogDecays(w, document_starts(since_BT, chunk))
    one = torch.eye(chunk, dtype=w.dtype, device=w.device)
    upto = decays.between()
    before = (upto - w.unsqueeze(4)).masked_fill(one.bool().unsqueeze(-1), -torch.inf)
    seen_b, seen_k = (torch.einsum("bhnik,bhnijk,bhnjk->bhnij", r, factors(upto), x) for x in (b, k))
    A, edited_k = (torch.einsum("bhnik,bhnijk,bhnjk->bhnij", a, factors(before), x) for x in (b, k))
    r_start, a_start = r * factors(decays.from_start()), a * factors(decays.from_start() - w)
    b_end, k_end = (x * factors(decays.to_end()) for x in (b, k))
    chunks = (a_start, edited_k @ v, A, r_start, seen_b, seen_k @ v, b_end.mT, k_end.mT @ v)
    outputs, kept = [], factors(decays.across()).unsqueeze(-1)
    for a_n, from_k, A_n, r_n, seen_n, o_n, b_n, added, kept_n in zip(*(x.unbind(2) for x in (*chunks, kept))):
        u = torch.linalg.solve_triangular(one - A_n, a_n @ S_BHKV + from_k, upper=False, unitriangular=True)
        outputs.append(r_n @ S_BHKV + seen_n @ u + o_n)
        S_BHKV = kept_n * S_BHKV + b_n @ u + added
    return join_chunks(torch.stack(outputs, 2), v_BHTV.shape[2]), S_BHKV

"""The recurrence with a decay for every channel of the keys (GLA, Yang et al. 2023, arXiv 2312.06635), in chunks.

Shapes: B lanes, H heads, T tokens, K and V sizes of keys and values. States (B, H, K, V).
"""

from __future__ import annotations

import torch
from torch import Tensor

from tbptt.models.mixers.chunks import LogDecays, carry, document_starts, factors, join_chunks, split_chunks


def channel_decay_attention(
    q_BHTK: Tensor,
    k_BHTK: Tensor,
    v_BHTV: Tensor,
    log_decay_BHTK: Tensor,
    S_BHKV: Tensor,
    chunk: int,
    since_BT: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Outputs (B, H, T, V), final state.

    The usual chunk form multiplies q e^(c - r) by k e^(r - c), and overflows in float32 where a channel decays fast.
    Here every pair of tokens of a chunk has its own factor, which is never above 1: C times as many exponentials.
    """
    T = q_BHTK.shape[2]
    q, k, v = (split_chunks(x, chunk) for x in (q_BHTK, k_BHTK, v_BHTV))
    decays = LogDecays(split_chunks(log_decay_BHTK, chunk), document_starts(since_BT, chunk))
    inside = torch.einsum("bhnik,bhnjk,bhnijk->bhnij", q, k, factors(decays.between())) @ v
    added = (k * factors(decays.to_end())).transpose(-1, -2) @ v
    starts, S_BHKV = carry(S_BHKV, factors(decays.across()), added)
    return join_chunks(inside + (q * factors(decays.from_start())) @ starts, T), S_BHKV

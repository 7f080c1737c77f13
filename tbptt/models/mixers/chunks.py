"""Linear recurrences in chunks: what lies within a chunk by matrix products, the state from chunk to chunk by a loop.

    S_t = decay_t S_(t-1) + k_t v_t^T,   o_t = S_t^T q_t

Shapes: B lanes, H heads, T tokens, K and V sizes of keys and values, N chunks of C tokens. States (B, H, K, V).
Decays are given by their logarithms, which are at most 0: only differences c_i - c_j <= 0 of their sums are ever
exponentiated, so that nothing overflows however fast a state is forgotten.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def split_chunks(x: Tensor, chunk: int, value: float = 0.0) -> Tensor:
    """(B, H, T, ...) -> (B, H, N, C, ...), padded at the end with tokens that change nothing."""
    if padding := -x.shape[2] % chunk:
        x = F.pad(x, (*[0] * 2 * (x.dim() - 3), 0, padding), value=value)
    return x.unflatten(2, (-1, chunk))


def join_chunks(x: Tensor, length: int) -> Tensor:
    """The inverse of `split_chunks`."""
    return x.flatten(2, 3)[:, :, :length]


def decay_matrix(c_BHNC: Tensor) -> Tensor:
    """D_ij = exp(c_i - c_j) for j <= i, else 0: what is left at i of what came in at j. (B, H, N, C, C)."""
    C = c_BHNC.shape[-1]
    later = torch.ones(C, C, dtype=torch.bool, device=c_BHNC.device).triu(1)
    return (c_BHNC.unsqueeze(-1) - c_BHNC.unsqueeze(-2)).masked_fill(later, -torch.inf).exp()


def scalar_decay_attention(
    q_BHTK: Tensor, k_BHTK: Tensor, v_BHTV: Tensor, log_decay_BHT: Tensor, S_BHKV: Tensor, chunk: int
) -> tuple[Tensor, Tensor]:
    """The recurrence with one decay per head and token (SSD, Dao and Gu 2024): outputs (B, H, T, V), final state."""
    T = q_BHTK.shape[2]
    q, k, v = (split_chunks(x, chunk) for x in (q_BHTK, k_BHTK, v_BHTV))
    c = split_chunks(log_decay_BHT, chunk).cumsum(-1)
    inside = ((q @ k.transpose(-1, -2)) * decay_matrix(c)) @ v
    q_start = q * c.exp().unsqueeze(-1)
    added = (k * (c[..., -1:] - c).exp().unsqueeze(-1)).transpose(-1, -2) @ v
    kept = c[..., -1].exp()[..., None, None]
    carried = []
    for n in range(q.shape[2]):
        carried.append(q_start[:, :, n] @ S_BHKV)
        S_BHKV = S_BHKV * kept[:, :, n] + added[:, :, n]
    return join_chunks(inside + torch.stack(carried, 2), T), S_BHKV


def channel_decay_attention(
    q_BHTK: Tensor, k_BHTK: Tensor, v_BHTV: Tensor, log_decay_BHTK: Tensor, S_BHKV: Tensor, chunk: int
) -> tuple[Tensor, Tensor]:
    """The recurrence with a decay for every channel of the keys (GLA, Yang et al. 2023): outputs, final state.

    The usual chunk form multiplies q e^(c - r) by k e^(r - c), and overflows in float32 where a channel decays fast.
    Here every pair of tokens of a chunk has its own factor, which is never above 1: C times as many exponentials.
    """
    T = q_BHTK.shape[2]
    q, k, v, g = (split_chunks(x, chunk) for x in (q_BHTK, k_BHTK, v_BHTV, log_decay_BHTK))
    c = g.cumsum(-2)
    later = torch.ones(chunk, chunk, dtype=torch.bool, device=c.device).triu(1).unsqueeze(-1)
    decay = (c.unsqueeze(-2) - c.unsqueeze(-3)).masked_fill(later, -torch.inf).exp()  # (B, H, N, C, C, K)
    inside = torch.einsum("bhnik,bhnjk,bhnijk->bhnij", q, k, decay) @ v
    q_start = q * c.exp()
    added = (k * (c[..., -1:, :] - c).exp()).transpose(-1, -2) @ v
    kept = c[..., -1, :].exp().unsqueeze(-1)
    carried = []
    for n in range(q.shape[2]):
        carried.append(q_start[:, :, n] @ S_BHKV)
        S_BHKV = S_BHKV * kept[:, :, n] + added[:, :, n]
    return join_chunks(inside + torch.stack(carried, 2), T), S_BHKV


def gated_delta_rule(
    q_BHTK: Tensor,
    k_BHTK: Tensor,
    v_BHTV: Tensor,
    log_decay_BHT: Tensor,
    beta_BHT: Tensor,
    S_BHKV: Tensor,
    chunk: int,
) -> tuple[Tensor, Tensor]:
    """S_t = a_t (1 - b_t k_t k_t^T) S_(t-1) + b_t k_t v_t^T (Yang et al. 2024): outputs (B, H, T, V), final state.

    Within a chunk the values that are written, u = b (v - what S held under k), depend on each other through a unit
    lower triangular matrix, which is solved for all chunks at once.
    """
    T, V = q_BHTK.shape[2], v_BHTV.shape[-1]
    q, k, v = (split_chunks(x, chunk) for x in (q_BHTK, k_BHTK, v_BHTV))
    c, beta = split_chunks(log_decay_BHT, chunk).cumsum(-1), split_chunks(beta_BHT, chunk).unsqueeze(-1)
    D = decay_matrix(c)
    from_start, to_end = c.exp().unsqueeze(-1), (c[..., -1:] - c).exp().unsqueeze(-1)
    k_beta = k * beta
    # Only the part below the diagonal is read; its diagonal counts as 1.
    mixed = (k_beta @ k.transpose(-1, -2)) * D
    right = torch.cat([v * beta, k_beta * from_start], dim=-1)
    solved = torch.linalg.solve_triangular(mixed, right, upper=False, unitriangular=True)
    U, W = solved[..., :V], solved[..., V:]
    scores = (q @ k.transpose(-1, -2)) * D
    q_start, k_end, kept = q * from_start, (k * to_end).transpose(-1, -2), c[..., -1].exp()[..., None, None]
    outputs = []
    for n in range(q.shape[2]):
        u = U[:, :, n] - W[:, :, n] @ S_BHKV
        outputs.append(q_start[:, :, n] @ S_BHKV + scores[:, :, n] @ u)
        S_BHKV = S_BHKV * kept[:, :, n] + k_end[:, :, n] @ u
    return join_chunks(torch.stack(outputs, 2), T), S_BHKV

"""Relative attention (Transformer-XL paper, section 3.3 and appendix B), in the plain form that defines it.

Shapes: B lanes, T queries (the segment), M memory positions, K = M + T keys, H heads, E head size, D model size.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def inverse_frequencies(d_model: int) -> Tensor:
    """w = 10000^(-2m/d_model) in float32, the precision in which the original defines them: (D/2,)."""
    return 1 / 10000.0 ** (torch.arange(0, d_model, 2, dtype=torch.float32) / d_model)


def sinusoid(distance_K: Tensor, inverse_frequency: Tensor) -> Tensor:
    """Position embeddings [sin(w d), cos(w d)]: (K,) distances, (D/2,) frequencies -> (K, D)."""
    angle = distance_K[:, None] * inverse_frequency
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


def key_distances(n_keys: int, clamp_len: int, like: Tensor) -> Tensor:
    """Distances K-1 ... 0 from the last query back to every key, capped at `clamp_len` if that is positive."""
    distance_K = torch.arange(n_keys - 1, -1, -1, dtype=like.dtype, device=like.device)
    return distance_K.clamp(max=clamp_len) if clamp_len > 0 else distance_K


def hidden_keys(n_queries: int, n_keys: int, window: int | None, device: torch.device) -> Tensor:
    """(T, K) mask, True where a query must not look: at later keys and, with `window`, at distances >= window."""
    query = torch.arange(n_keys - n_queries, n_keys, device=device)[:, None]
    distance_TK = query - torch.arange(n_keys, device=device)
    hidden = distance_TK < 0
    return hidden if window is None else hidden | (distance_TK >= window)


def position_scores(q_BHTE: Tensor, r_KHE: Tensor) -> Tensor:
    """q_i . r_{i-j} for every query i and key j, as (B, H, T, K); entries at later keys (j > i) are meaningless.

    `r_KHE` runs from distance K-1 down to 0. The product with every r gives a T x K table whose row i must move left by
    T-1-i. With one spare column (r padded to K+1 rows), that shift is the same memory read from offset T-1 on in
    rows of length K: entry (i, j) at (T-1) + i*K + j = i*(K+1) + (T-1-i+j). No copy is made.
    """
    B, H, T, _ = q_BHTE.shape
    K = r_KHE.shape[0]
    table = q_BHTE @ F.pad(r_KHE, (0, 0, 0, 0, 0, 1)).permute(1, 2, 0)
    return table.view(B, H, T * (K + 1))[..., T - 1 : T - 1 + T * K].view(B, H, T, K)


def relative_attention(
    q_BHTE: Tensor,
    k_BHKE: Tensor,
    v_BHKE: Tensor,
    r_KHE: Tensor,
    content_bias_HE: Tensor,
    position_bias_HE: Tensor,
    hidden_TK: Tensor,
    dropout: float,
) -> Tensor:
    """softmax(((q + u) . k + (q + v) . r) / sqrt(E)) applied to the values: (B, H, T, E).

    `content_bias_HE` is the paper's u, `position_bias_HE` its v; `dropout` acts on the attention weights.
    """
    scale = 1 / math.sqrt(q_BHTE.shape[-1])
    q_content = (q_BHTE + content_bias_HE[:, None]) * scale
    q_position = (q_BHTE + position_bias_HE[:, None]) * scale
    scores_BHTK = position_scores(q_position, r_KHE) + q_content @ k_BHKE.transpose(-1, -2)
    weights = scores_BHTK.masked_fill_(hidden_TK, -torch.inf).softmax(dim=-1)
    return F.dropout(weights, dropout, training=dropout > 0) @ v_BHKE


class RelativeAttention(nn.Module):
    """Multi-head relative attention of a segment over memory and segment; all projections without bias."""

    def __init__(self, d_model: int, n_head: int, d_head: int, dropatt: float):
        super().__init__()
        self.n_head, self.dropatt = n_head, dropatt
        self.query = nn.Linear(d_model, n_head * d_head, bias=False)
        self.key_value = nn.Linear(d_model, 2 * n_head * d_head, bias=False)
        self.position = nn.Linear(d_model, n_head * d_head, bias=False)
        self.output = nn.Linear(n_head * d_head, d_model, bias=False)

    def forward(self, x_BTD, context_BKD, positions_KD, content_bias_HE, position_bias_HE, hidden_TK) -> Tensor:
        H = self.n_head
        q_BHTE = self.query(x_BTD).unflatten(-1, (H, -1)).transpose(1, 2)
        k_BHKE, v_BHKE = self.key_value(context_BKD).unflatten(-1, (2, H, -1)).permute(2, 0, 3, 1, 4)
        r_KHE = self.position(positions_KD).unflatten(-1, (H, -1))
        dropout = self.dropatt if self.training else 0.0
        bias = content_bias_HE, position_bias_HE
        y_BHTE = relative_attention(q_BHTE, k_BHKE, v_BHKE, r_KHE, *bias, hidden_TK, dropout)
        return self.output(y_BHTE.transpose(1, 2).flatten(-2))

"""Relative attention (Transformer-XL paper, section 3.3 and appendix B), in plain PyTorch: the definition.

Shapes: B lanes, T queries (the segment), M memory positions, K = M + T keys, H heads, E head size, D model size.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tbptt.device import matmul_dtype
from tbptt.models.alignment import aligned, crop, pad_to
from tbptt.models.attention.choice import Attention
from tbptt.models.attention.context_linear import context_linear
from tbptt.models.attention.single_node import single_node_attention
from tbptt.models.dropout import fast_dropout


def inverse_frequencies(d_model: int) -> Tensor:
    """w = 10000^(-2m/d_model), (D/2,), in float32 as in the original code."""
    return 1 / 10000.0 ** (torch.arange(0, d_model, 2, dtype=torch.float32) / d_model)


def sinusoid(distance_K: Tensor, inverse_frequency: Tensor) -> Tensor:
    """Position embeddings [sin(w d), cos(w d)]: (K,) distances, (D/2,) frequencies -> (K, D)."""
    angle = distance_K[:, None] * inverse_frequency
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


def key_distances(n_keys: int, clamp_len: int, like: Tensor) -> Tensor:
    """Distances K-1 ... 0 from the last query back to every key, capped at `clamp_len` if that is positive."""
    distance_K = torch.arange(n_keys - 1, -1, -1, dtype=like.dtype, device=like.device)
    return distance_K.clamp(max=clamp_len) if clamp_len > 0 else distance_K


def causal_mask(
    n_queries: int, n_keys: int, window: int | None, like: Tensor, since_BT: Tensor | None = None
) -> Tensor:
    """(T, K), to be added to the scores: -inf at later keys and at keys `window` or more positions back.

    With `since_BT`, (B, T, K): -inf also at keys more than that many positions back.
    """
    query = torch.arange(n_keys - n_queries, n_keys, device=like.device)[:, None]
    distance_TK = query - torch.arange(n_keys, device=like.device)
    masked_TK = distance_TK < 0 if window is None else (distance_TK < 0) | (distance_TK >= window)
    masked = masked_TK if since_BT is None else masked_TK | (distance_TK > since_BT[:, :, None])
    return like.new_zeros(masked.shape).masked_fill_(masked, -torch.inf)


def next_memory(memory: Tensor, x_BTD: Tensor, keys_values_BK2HE: Tensor | None, mem_len: int) -> Tensor:
    """The last `mem_len` positions of memory and segment, in the form of the memory: inputs, or keys and values."""

    def last(x: Tensor, n: int) -> Tensor:
        return x[:, max(0, x.shape[1] - n) :]

    if keys_values_BK2HE is not None:
        return last(keys_values_BK2HE, mem_len)
    new_BTD = last(x_BTD, mem_len)
    old_BMD = last(memory, mem_len - new_BTD.shape[1])
    if old_BMD.shape[1] == 0 and new_BTD.shape[1] == x_BTD.shape[1]:
        return new_BTD  # exactly the segment: no copy needed
    return torch.cat([old_BMD.to(new_BTD.dtype), new_BTD], dim=1)


def position_scores(q_HBTE: Tensor, r_KHE: Tensor) -> Tensor:
    """q_i . r_{i-j} for every query i and key j: (H, B, T, K). Entries at later keys (j > i) are undefined.

    The rows of `r_KHE` run from distance K-1 down to 0. The product of q with all of r is a T x K table whose row i
    must be shifted left by T-1-i. With one padding column (r padded to K+1 rows), the shifted table is a view of the
    same memory, from offset T-1 on in rows of length K: entry (i, j) is at (T-1) + i*K + j = i*(K+1) + (T-1-i+j).
    Heads come first because r is shared by all lanes: there is one matrix product per head.
    """
    H, B, T, _ = q_HBTE.shape
    K = r_KHE.shape[0]
    table = q_HBTE.flatten(1, 2) @ F.pad(r_KHE, (0, 0, 0, 0, 0, 1)).permute(1, 2, 0)
    return table.view(H, B, T * (K + 1))[..., T - 1 : T - 1 + T * K].view(H, B, T, K)


def relative_attention(
    q_BHTE: Tensor,
    k_BHKE: Tensor,
    v_BHKE: Tensor,
    r_KHE: Tensor,
    content_bias_HE: Tensor,
    position_bias_HE: Tensor,
    mask: Tensor,
    dropout: float,
) -> Tensor:
    """softmax(((q + u) . k + (q + v) . r) / sqrt(E)) applied to the values: (B, H, T, E).

    `content_bias_HE` is the paper's u, `position_bias_HE` its v; `dropout` acts on the attention weights.
    The mask (T, K) or (B, T, K) is added to the scores.
    """
    scale = 1 / math.sqrt(q_BHTE.shape[-1])
    q_HBTE, k_HBKE, v_HBKE = (x.transpose(0, 1) for x in (q_BHTE * scale, k_BHKE, v_BHKE))
    q_content = q_HBTE + content_bias_HE[:, None, None] * scale
    q_position = q_HBTE + position_bias_HE[:, None, None] * scale
    # Adding the mask copies the shifted view to a contiguous tensor; content scores are then added to it in place.
    position = position_scores(q_position, r_KHE)
    scores = (position + mask.to(position.dtype)).flatten(0, 1)
    keys = k_HBKE.flatten(0, 1).transpose(1, 2)
    scores.baddbmm_(q_content.flatten(0, 1).to(scores.dtype), keys.to(scores.dtype))
    weights = scores.softmax(dim=-1)
    y = fast_dropout(weights, dropout) @ v_HBKE.flatten(0, 1)
    return y.unflatten(0, q_HBTE.shape[:2]).transpose(0, 1)


def _returned(kv_BK2HE: Tensor, memory: Tensor) -> Tensor | None:
    return kv_BK2HE if memory.dim() == 5 else None


class RelativeAttention(nn.Module):
    """Multi-head relative attention of a segment over memory and segment. All projections are without bias."""

    def __init__(self, d_model: int, n_head: int, d_head: int, dropatt: float, choice: Attention = Attention.auto):
        super().__init__()
        self.n_head, self.d_head, self.dropatt, self.choice = n_head, d_head, dropatt, choice
        self.query = nn.Linear(d_model, n_head * d_head, bias=False)
        self.key_value = nn.Linear(d_model, 2 * n_head * d_head, bias=False)
        self.position = nn.Linear(d_model, n_head * d_head, bias=False)
        self.output = nn.Linear(n_head * d_head, d_model, bias=False)

    def forward(
        self, x_BTD, memory, positions_KD, content_bias_HE, position_bias_HE, window, since_BT, mask
    ) -> tuple[Tensor, Tensor | None]:
        """The output (B, T, D), and the keys and values of memory and segment (B, K, 2, H, E), if memory holds such.

        `memory` is either inputs (B, M, D) or cached keys and values (B, M, 2, H, E). The plain implementation uses
        `mask`; if that is None, the fused implementation runs and uses `window` and `since_BT`.
        """
        if mask is None:
            return self._fused(x_BTD, memory, positions_KD, content_bias_HE, position_bias_HE, window, since_BT)
        bias = content_bias_HE, position_bias_HE
        if self._as_single_node(memory):
            weights = tuple(layer.weight for layer in (self.query, self.key_value, self.position, self.output))
            y_BTD = single_node_attention(x_BTD, memory, positions_KD, weights, *bias, mask, self._dropout_rate())
            return y_BTD, None
        H = self.n_head
        q_BHTE = self.query(x_BTD).unflatten(-1, (H, -1)).transpose(1, 2)
        kv_BK2HE = self._context_keys_values(memory, x_BTD, fused=False)
        k_BHKE, v_BHKE = kv_BK2HE.permute(2, 0, 3, 1, 4)
        r_KHE = self.position(positions_KD).unflatten(-1, (H, -1))
        y_BHTE = relative_attention(q_BHTE, k_BHKE, v_BHKE, r_KHE, *bias, mask, self._dropout_rate())
        return self.output(y_BHTE.transpose(1, 2).flatten(-2)), _returned(kv_BK2HE, memory)

    def _as_single_node(self, memory: Tensor) -> bool:
        """Whether to train on a CPU in fewer operations than the definition has, unless that is asked for."""
        wanted = self.choice is Attention.auto and memory.device.type == "cpu" and memory.dim() == 3
        return wanted and torch.is_grad_enabled() and not torch.compiler.is_compiling()

    def keys_values(self, x_BTD: Tensor, fused: bool) -> Tensor:
        """Keys and values of x: (B, T, 2, H, E). A memory may cache them as long as the weights do not change."""
        weight = self._key_value_weight(fused)
        x_BTD = pad_to(x_BTD, weight.shape[1:], weight.dtype)
        return F.linear(x_BTD, weight).unflatten(-1, (2, self.n_head, -1))

    def _context_keys_values(self, memory: Tensor, x_BTD: Tensor, fused: bool) -> Tensor:
        """Keys and values of memory and segment: (B, K, 2, H, E)."""
        if memory.dim() == 3:
            return context_linear(memory, x_BTD, self._key_value_weight(fused)).unflatten(-1, (2, self.n_head, -1))
        new_BT2HE = self.keys_values(x_BTD, fused)
        parts = memory.to(new_BT2HE.dtype), new_BT2HE
        if fused:
            return torch.cat(parts, dim=1)
        # Concatenate in the memory layout that the plain implementation reads (the permutation is its own inverse).
        return torch.cat([x.permute(2, 3, 0, 1, 4) for x in parts], dim=3).permute(2, 3, 0, 1, 4)

    def _key_value_weight(self, fused: bool) -> Tensor:
        return self._padded_weight(self.key_value) if fused else self.key_value.weight

    def _fused(
        self, x_BTD, memory, positions_KD, content_bias_HE, position_bias_HE, window, since_BT
    ) -> tuple[Tensor, Tensor | None]:
        from tbptt.models.attention.fused import fused_relative_attention

        D, H, E = x_BTD.shape[-1], self.n_head, self.d_head
        padding, dtype = self._head_padding(), matmul_dtype(x_BTD)
        width = (aligned(D, x_BTD.device),)
        q_BTHE = F.linear(pad_to(x_BTD, width, dtype), self._padded_weight(self.query)).unflatten(-1, (H, -1))
        r_KHE = F.linear(pad_to(positions_KD, width, dtype), self._padded_weight(self.position)).unflatten(-1, (H, -1))
        kv_BK2HE = self._context_keys_values(memory, x_BTD, fused=True)
        u_HE, v_HE = F.pad(content_bias_HE, (0, padding)), F.pad(position_bias_HE, (0, padding))
        y_BTHE = fused_relative_attention(
            q_BTHE, kv_BK2HE, r_KHE, u_HE, v_HE, window, self._dropout_rate(), 1 / math.sqrt(E), since_BT
        )
        output = pad_to(self.output.weight.unflatten(1, (H, E)), (*width, H, E + padding), dtype).flatten(1)
        return crop(F.linear(y_BTHE.flatten(-2), output), D), _returned(kv_BK2HE, memory)

    def _padded_weight(self, linear: nn.Linear) -> Tensor:
        """The weight with every head zero-padded to a multiple of 16, so that a GPU can load 16 bytes at once.

        Only this copy of the weight is padded; scores and outputs do not change.
        """
        heads, dtype = linear.weight.unflatten(0, (-1, self.d_head)), matmul_dtype(linear.weight)
        width = aligned(linear.in_features, linear.weight.device)
        return pad_to(heads, (len(heads), self.d_head + self._head_padding(), width), dtype).flatten(0, 1)

    def _head_padding(self) -> int:
        return -self.d_head % 16

    def _dropout_rate(self) -> float:
        return self.dropatt if self.training else 0.0

"""Attention over a window of tokens, as hybrids of recurrent and attention layers have it: rotary or without positions.

Shapes: B lanes, T tokens of the segment, M remembered tokens, D model size, H query heads, G key-value heads, E head
size.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tbptt.errors import UserError
from tbptt.models.attention.remembered import next_remembered, visible_before
from tbptt.models.mixers.initialisation import init_linear
from tbptt.models.mixers.protocol import Mixer, MixerConfig
from tbptt.models.norms import rms_norm
from tbptt.models.protocol import State

SMALLEST_PIECE = 64  # queries that attention takes at once


class QueryKeyNorm(Enum):
    none = "none"
    head = "head"  # RMS of every head by itself
    head_plus_one = "head_plus_one"  # the same with weights 1 + w
    all = "all"  # RMS of all heads together


@dataclass
class AttentionConfig(MixerConfig):
    NAME: ClassVar[str] = "attention"
    CONTEXT: ClassVar[tuple[str, ...]] = ("mem_len",)

    n_head: int = 4  # heads of queries
    n_kv_head: int | None = None  # heads of keys and values, each serving several of the queries; n_head if not given
    d_head: int = 32  # size of one
    window: int | None = 128  # tokens that a query sees, itself included; null: all, in memory that grows
    rotary_share: float = 1.0  # of a head's channels that carry rotary positions; 0: no positions
    rotary_base: float = 10_000.0  # base of the wavelengths of rotary positions
    qk_norm: QueryKeyNorm = QueryKeyNorm.none  # RMS norm of queries and keys: per head, or over all heads
    output_gate: bool = False  # the output times sigmoid of another linear map
    output_bias: bool = False  # of the last linear map
    norm_eps: float = 1e-6  # of that norm

    @property
    def kv_heads(self) -> int:
        return self.n_kv_head or self.n_head

    def check(self, d_model: int) -> None:
        self.check_at_least(1, "n_head", "n_kv_head", "d_head")
        self.check_divides("n_kv_head", "n_head")
        if self.window is not None and self.window < 1:
            raise UserError(f"model.attention.window={self.window} must be 1 or more, or null for all tokens")
        if self.rotary_base <= 0:
            raise UserError(f"model.attention.rotary_base={self.rotary_base} must be positive")
        if not 0 <= self.rotary_share <= 1 or int(self.rotary_share * self.d_head) % 2:
            raise UserError(
                f"model.attention.rotary_share={self.rotary_share} must be between 0 and 1 and make an even number of "
                f"the model.attention.d_head={self.d_head} channels rotary"
            )

    def build(self, d_model: int, layer: int, n_layer: int) -> WindowAttention:
        return WindowAttention(self, d_model)


class WindowAttention(Mixer):
    """The state is the keys and values of the last tokens, before rotation: (B, M, 2, G, E) with M < window;
    with documents also `remembered` (B,).

    Attention depends on the differences of positions alone, so that they may be counted anew in every segment.
    """

    inverse_frequency: Tensor

    def __init__(self, config: AttentionConfig, d_model: int):
        super().__init__()
        c, G = config, config.kv_heads
        self.n_head, self.kv_heads, self.d_head, self.window = c.n_head, G, c.d_head, c.window
        self.qk_norm, self.norm_eps = c.qk_norm, c.norm_eps
        self.query = nn.Linear(d_model, c.n_head * c.d_head, bias=False)
        self.key = nn.Linear(d_model, G * c.d_head, bias=False)
        self.value = nn.Linear(d_model, G * c.d_head, bias=False)
        self.gate = nn.Linear(d_model, c.n_head * c.d_head, bias=False) if c.output_gate else None
        self.output = nn.Linear(c.n_head * c.d_head, d_model, bias=c.output_bias)
        if c.qk_norm is not QueryKeyNorm.none:
            heads = (c.n_head, G) if c.qk_norm is QueryKeyNorm.all else (1, 1)
            self.query_norm_weight, self.key_norm_weight = (nn.Parameter(torch.empty(n * c.d_head)) for n in heads)
        rotary = int(c.rotary_share * c.d_head)
        frequency = c.rotary_base ** -(torch.arange(0, rotary, 2, dtype=torch.float32) / max(1, rotary))
        self.register_buffer("inverse_frequency", frequency, persistent=False)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        init_linear(self)
        if self.qk_norm is not QueryKeyNorm.none:
            for weight in (self.query_norm_weight, self.key_norm_weight):
                weight.fill_(0 if self.qk_norm is QueryKeyNorm.head_plus_one else 1)

    def initial_state(self, batch_size: int) -> State:
        return {"keys_values": self.state_zeros(batch_size, 0, 2, self.kv_heads, self.d_head)}

    def reach(self, tgt_len: int) -> int | None:
        return None if self.window is None else -(-(self.window - 1) // tgt_len) * tgt_len

    def cost(self, tgt_len: int) -> tuple[float, float]:
        keys = tgt_len if self.window is None else self.window - 1 + tgt_len
        return 2 * keys * self.n_head * self.d_head, 4 * self.n_head * keys

    def state_size(self) -> int:
        """Without a window, none is counted: how long a text will be is not known."""
        return 2 * ((self.window or 1) - 1) * self.kv_heads * self.d_head

    def context(self) -> dict[str, Any]:
        """`mem_len`: tokens remembered, all that a query sees but itself; None without a limit."""
        return {"mem_len": None if self.window is None else self.window - 1}

    def set_context(self, **settings: Any) -> None:
        mem_len = settings.get("mem_len", self.context()["mem_len"])
        if mem_len is not None and mem_len < 0:
            raise UserError(f"mem_len={mem_len} must be 0 or more")
        self.window = None if mem_len is None else mem_len + 1

    def forward(self, x_BTD: Tensor, state: State, since_BT: Tensor | None = None) -> tuple[Tensor, State]:
        T, H, G = x_BTD.shape[1], self.n_head, self.kv_heads
        q_BTHE = self._normed(self.query(x_BTD), "query").unflatten(-1, (H, -1))
        k_BTGE = self._normed(self.key(x_BTD), "key").unflatten(-1, (G, -1))
        v_BTGE = self.value(x_BTD).unflatten(-1, (G, -1))
        memory = state["keys_values"]
        since_BT = visible_before(since_BT, memory, T, state.get("remembered"))
        kv_BK2GE = torch.cat([memory.to(v_BTGE.dtype), torch.stack([k_BTGE.to(v_BTGE.dtype), v_BTGE], dim=2)], dim=1)
        K = kv_BK2GE.shape[1]
        k_BGKE, v_BGKE = kv_BK2GE.permute(2, 0, 3, 1, 4)
        position_K = torch.arange(K, device=x_BTD.device)
        q_BHTE = self._rotated(q_BTHE.to(v_BTGE.dtype).transpose(1, 2), position_K[K - T :])
        k_BGKE = self._rotated(k_BGKE, position_K)
        k_BHKE, v_BHKE = (x.repeat_interleave(H // G, dim=1) for x in (k_BGKE, v_BGKE))
        y_BHTE = window_attention(q_BHTE, k_BHKE, v_BHKE, self.window, since_BT)
        y_BTD = y_BHTE.transpose(1, 2).flatten(-2)
        if self.gate is not None:
            y_BTD = y_BTD * self.gate(x_BTD).sigmoid()
        kept = kv_BK2GE if self.window is None else kv_BK2GE[:, max(0, K - self.window + 1) :]
        return self.output(y_BTD), {"keys_values": kept.to(memory.dtype), **next_remembered(since_BT)}

    def _normed(self, x: Tensor, what: str) -> Tensor:
        if self.qk_norm is QueryKeyNorm.none:
            return x
        weight: Tensor = self.query_norm_weight if what == "query" else self.key_norm_weight
        if self.qk_norm is QueryKeyNorm.head_plus_one:
            weight = 1 + weight
        return rms_norm(x.unflatten(-1, (-1, len(weight))), weight, self.norm_eps).flatten(-2)

    def _rotated(self, x_BHTE: Tensor, position_T: Tensor) -> Tensor:
        """Rotary positions (Su et al. 2021) of the first channels, halves of them being paired."""
        half = len(self.inverse_frequency)
        if not half:
            return x_BHTE
        angle = position_T[:, None].to(torch.promote_types(x_BHTE.dtype, torch.float32)) * self.inverse_frequency
        cos, sin = (f(angle).to(x_BHTE.dtype) for f in (torch.cos, torch.sin))
        rotary, rest = x_BHTE.split([2 * half, x_BHTE.shape[-1] - 2 * half], dim=-1)
        rotated = rotary * torch.cat([cos, cos], dim=-1) + rotary.roll(half, dims=-1) * torch.cat([-sin, sin], dim=-1)
        return torch.cat([rotated, rest], dim=-1) if rest.shape[-1] else rotated


def window_attention(
    q_BHTE: Tensor, k_BHKE: Tensor, v_BHKE: Tensor, window: int | None, since_BT: Tensor | None = None
) -> Tensor:
    """Softmax attention (B, H, T, E) of queries, those of the last T keys, to the last `window` keys up to their own.

    With `since_BT`, to their own and at most that many before it. Many queries are taken in pieces of half a window,
    each with the blocks of keys that it sees: linear in T.
    """
    T, memory = q_BHTE.shape[2], k_BHKE.shape[2] - q_BHTE.shape[2]
    if window is not None and memory > window:  # of a wider window, before its context was set to this one
        memory, k_BHKE, v_BHKE = window, k_BHKE[:, :, memory - window :], v_BHKE[:, :, memory - window :]
    if window is None or (size := max(SMALLEST_PIECE, window // 2)) >= T:
        return F.scaled_dot_product_attention(q_BHTE, k_BHKE, v_BHKE, seen(T, memory, window, q_BHTE.device, since_BT))
    q_pieces = q_BHTE.split(size, dim=2)
    remembered = [memory % size] * (memory % size > 0) + [size] * (memory // size)
    sizes = remembered + [q.shape[2] for q in q_pieces]
    k_blocks, v_blocks = k_BHKE.split(sizes, dim=2), v_BHKE.split(sizes, dim=2)
    since_pieces = [None] * len(q_pieces) if since_BT is None else since_BT.split(size, dim=1)
    reach, outputs = -(-(window - 1) // size), []
    for own, (q, since_BI) in enumerate(zip(q_pieces, since_pieces), len(remembered)):
        k, v = (torch.cat(x[max(0, own - reach) : own + 1], dim=2) for x in (k_blocks, v_blocks))
        visible = seen(q.shape[2], k.shape[2] - q.shape[2], window, q.device, since_BI)
        outputs.append(F.scaled_dot_product_attention(q, k, v, visible))
    return torch.cat(outputs, dim=2)


def seen(queries: int, memory: int, window: int | None, device: torch.device, since_BT: Tensor | None = None) -> Tensor:
    """Which keys the queries see, (queries, memory + queries); (B, 1, ...) with `since_BT`."""
    position = torch.arange(memory + queries, device=device)
    distance = position[memory:, None] - position
    visible = (distance >= 0) if window is None else (distance >= 0) & (distance < window)
    return visible if since_BT is None else visible & (distance <= since_BT[:, None, :, None])

"""Transformer-XL's attention (Dai et al. 2019, arXiv 1901.02860) as a mixer: relative positions, and a memory.

Shapes: B lanes, T tokens of the segment, M memory positions, K = M + T keys, D model size, H heads, E head size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tbptt.device import Precision, parameter_dtype
from tbptt.errors import UserError
from tbptt.models.attention.choice import Attention, check_attention, pick_attention
from tbptt.models.attention.relative import (
    RelativeAttention,
    causal_mask,
    inverse_frequencies,
    key_distances,
    next_memory,
    sinusoid,
)
from tbptt.models.attention.remembered import next_remembered, visible_before
from tbptt.models.checks import check_context, check_probabilities
from tbptt.models.mixers.initialisation import init_linear
from tbptt.models.mixers.protocol import Mixer, MixerConfig
from tbptt.models.protocol import State


@dataclass
class RelativeAttentionConfig(MixerConfig):
    NAME: ClassVar[str] = "relative_attention"
    CONTEXT: ClassVar[tuple[str, ...]] = ("mem_len", "clamp_len", "same_length")
    RESULT_NEUTRAL: ClassVar[tuple[str, ...]] = ("attention",)

    n_head: int = 4
    d_head: int = 32  # size of one
    dropatt: float = 0.0  # dropout of attention weights
    mem_len: int = 128  # positions remembered
    clamp_len: int = -1  # larger distances are clamped to this; -1: no limit
    same_length: bool = False  # every query sees exactly mem_len keys, itself included
    attention: Attention = Attention.auto  # the implementation

    def check(self, d_model: int) -> None:
        self.check_at_least(1, "n_head", "d_head")
        check_probabilities(self, "dropatt", group=f"model.{self.NAME}.")
        if d_model % 2:
            raise UserError(
                f"model.d_model={d_model} must be even: positions of relative_attention are half sines and half cosines"
            )
        check_context(f"model.{self.NAME}.", self.mem_len, self.clamp_len, self.same_length)

    def check_eval(self, settings: dict[str, Any]) -> None:
        check_context("eval.", **{key: settings.get(key, getattr(self, key)) for key in self.CONTEXT})

    def any_segments(self, settings: dict[str, Any]) -> bool:
        return settings.get("same_length", self.same_length)

    def check_precision(self, precision: Precision, device: torch.device) -> None:
        check_attention(f"model.{self.NAME}.attention", self.attention, self.d_head, device, parameter_dtype(precision))

    def build(self, d_model: int, layer: int, n_layer: int) -> RelativeAttentionMixer:
        return RelativeAttentionMixer(self, d_model)


class RelativeAttentionMixer(Mixer):
    """The state is the memory, the last M <= mem_len inputs (B, M, D); with documents also `remembered` (B,).

    For inference it holds their keys and values (B, M, 2, H, E) instead, so that each position is projected once.
    """

    NOT_MATRICES: ClassVar = ("content_bias_HE", "position_bias_HE")
    inverse_frequency: Tensor

    def __init__(self, config: RelativeAttentionConfig, d_model: int):
        super().__init__()
        c = config
        self.mem_len, self.clamp_len, self.same_length, self.choice = c.mem_len, c.clamp_len, c.same_length, c.attention
        self.attention = RelativeAttention(d_model, c.n_head, c.d_head, c.dropatt, c.attention)
        self.content_bias_HE = nn.Parameter(torch.empty(c.n_head, c.d_head))
        self.position_bias_HE = nn.Parameter(torch.empty(c.n_head, c.d_head))
        self.register_buffer("inverse_frequency", inverse_frequencies(d_model), persistent=False)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        init_linear(self)
        self.content_bias_HE.normal_(0, 0.02)
        self.position_bias_HE.normal_(0, 0.02)

    def initial_state(self, batch_size: int) -> State:
        return {"memory": self.state_zeros(batch_size, 0, self.attention.query.in_features)}

    def for_inference(self, state: State) -> State:
        keys_values = self.attention.keys_values(state["memory"], self._picked() is Attention.fused)
        return {**state, "memory": keys_values}

    def reach(self, tgt_len: int) -> int:
        return -(-self.mem_len // tgt_len) * tgt_len

    def any_segments(self) -> bool:
        return self.same_length

    def cost(self, tgt_len: int) -> tuple[float, float]:
        keys, heads = self.mem_len + tgt_len, self.attention.n_head
        return 3 * keys * heads * self.attention.d_head, 4 * heads * keys

    def state_size(self) -> int:
        """Of keys and values."""
        return 2 * self.mem_len * self.attention.n_head * self.attention.d_head

    def context(self) -> dict[str, Any]:
        return {key: getattr(self, key) for key in RelativeAttentionConfig.CONTEXT}

    def set_context(self, **settings: Any) -> None:
        settings = self.context() | settings
        check_context("", **settings)
        self.mem_len, self.clamp_len = settings["mem_len"], settings["clamp_len"]
        self.same_length = settings["same_length"]

    def notes(self) -> list[str]:
        return [f"model.relative_attention.attention={self.choice.name}: attention is {self._picked().name}"]

    def _picked(self) -> Attention:
        weight = self.content_bias_HE
        return pick_attention(self.choice, self.attention.d_head, weight.device, weight.dtype)

    def forward(self, x_BTD: Tensor, state: State, since_BT: Tensor | None = None) -> tuple[Tensor, State]:
        memory, T = state["memory"], x_BTD.shape[1]
        since_BT = visible_before(since_BT, memory, T, state.get("remembered"))
        K = memory.shape[1] + T
        positions_KD = sinusoid(key_distances(K, self.clamp_len, like=self.inverse_frequency), self.inverse_frequency)
        window = self.mem_len if self.same_length else None
        plain = self._picked() is Attention.plain
        y_BTD, keys_values = self.attention(
            x_BTD, memory, positions_KD, self.content_bias_HE, self.position_bias_HE, window, since_BT,
            causal_mask(T, K, window, x_BTD, since_BT) if plain else None,
        )  # fmt: skip
        memory = next_memory(memory, x_BTD.to(memory.dtype), keys_values, self.mem_len)
        return y_BTD, {"memory": memory, **next_remembered(since_BT)}

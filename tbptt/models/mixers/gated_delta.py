"""Gated DeltaNet (Yang, Kautz and Hatamizadeh 2024, arXiv 2412.06464): a matrix of associations that forgets and edits.

Shapes: B lanes, T tokens, D model size, H key heads, G value heads, K and V sizes of a key and of a value.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tbptt.models.mixers.delta_rule import gated_delta_rule
from tbptt.models.mixers.initialisation import init_linear, init_log_decay, init_time_step
from tbptt.models.mixers.joined_linear import joined_linear
from tbptt.models.mixers.protocol import Mixer, MixerConfig
from tbptt.models.mixers.short_convolution import ShortConvolution
from tbptt.models.norms import rms_norm, unit_length
from tbptt.models.protocol import State


@dataclass
class GatedDeltaConfig(MixerConfig):
    NAME: ClassVar[str] = "gated_delta"

    n_head: int = 4  # key heads
    n_value_head: int | None = None  # a multiple of n_head, each key head serving several; n_head if not given
    d_key: int = 32  # of a head
    d_value: int = 64  # of a head
    conv_width: int = 4  # tokens that the short convolution sees
    negative_eigenvalues: bool = False  # beta up to 2 instead of 1 (Grazzi et al. 2024): states can alternate
    norm_eps: float = 1e-5  # of its norm: added to the mean square
    chunk_len: int = 32  # tokens that the plain form computes at once; no result depends on it

    @property
    def value_heads(self) -> int:
        return self.n_value_head or self.n_head

    def check(self, d_model: int) -> None:
        self.check_at_least(1, "n_head", "n_value_head", "d_key", "d_value", "conv_width", "chunk_len")
        self.check_divides("n_head", "n_value_head")

    def kernel_sizes(self) -> tuple[int, int]:
        return self.d_key, self.d_value

    def build(self, d_model: int, layer: int, n_layer: int) -> GatedDelta:
        return GatedDelta(self, d_model)


class GatedDelta(Mixer):
    """The state is S (B, G, K, V), and the past inputs of the convolution (B, conv_width - 1, 2 H K + G V)."""

    def __init__(self, config: GatedDeltaConfig, d_model: int):
        super().__init__()
        c, G = config, config.value_heads
        self.n_head, self.value_heads, self.d_key, self.d_value = c.n_head, G, c.d_key, c.d_value
        self.beta_scale, self.norm_eps, self.chunk_len = 2.0 if c.negative_eigenvalues else 1.0, c.norm_eps, c.chunk_len
        self.query = nn.Linear(d_model, c.n_head * c.d_key, bias=False)
        self.key = nn.Linear(d_model, c.n_head * c.d_key, bias=False)
        self.value = nn.Linear(d_model, G * c.d_value, bias=False)
        self.decay = nn.Linear(d_model, G, bias=False)
        self.beta = nn.Linear(d_model, G, bias=False)
        self.gate = nn.Linear(d_model, G * c.d_value, bias=False)
        self.output = nn.Linear(G * c.d_value, d_model, bias=False)
        self.convolution = ShortConvolution(2 * c.n_head * c.d_key + G * c.d_value, c.conv_width)
        self.A_log_G = nn.Parameter(torch.empty(G))
        self.dt_bias_G = nn.Parameter(torch.empty(G))
        self.norm_weight_V = nn.Parameter(torch.empty(c.d_value))

    @torch.no_grad()
    def reset_parameters(self) -> None:
        init_linear(self)
        self.convolution.weight_CW.normal_(0, 0.02)
        init_log_decay(self.A_log_G, 0, 16)
        init_time_step(self.dt_bias_G)
        self.norm_weight_V.fill_(1)

    def initial_state(self, batch_size: int) -> State:
        channels, width = self.convolution.weight_CW.shape
        return {
            "S": self.state_zeros(batch_size, self.value_heads, self.d_key, self.d_value),
            "past": self.state_zeros(batch_size, width - 1, channels),
        }

    def forward(self, x_BTD: Tensor, state: State, since_BT: Tensor | None = None) -> tuple[Tensor, State]:
        H, G, K, V = self.n_head, self.value_heads, self.d_key, self.d_value
        projected = joined_linear(x_BTD, self.query, self.key, self.value)
        convolved, past = self.convolution(projected, state["past"], since_BT)
        dtype = state["S"].dtype
        q, k, v = F.silu(convolved).to(dtype).split([H * K, H * K, G * V], dim=-1)
        q_BGTK, k_BGTK = (self._value_heads_of(unit_length(x.unflatten(-1, (H, K)), 1e-6)) for x in (q, k))
        v_BGTV = v.unflatten(-1, (G, V)).transpose(1, 2)
        beta_BTG, decay_BTG = joined_linear(x_BTD, self.beta, self.decay).to(dtype).split(G, dim=-1)
        beta_BTG = self.beta_scale * beta_BTG.sigmoid()
        log_decay_BTG = -self.A_log_G.to(dtype).exp() * F.softplus(decay_BTG + self.dt_bias_G)
        recurrence = self.recurrence(gated_delta_rule, x_BTD)
        with torch.autocast(x_BTD.device.type, enabled=False):
            o_BGTV, S = recurrence(
                q_BGTK, k_BGTK, v_BGTV, log_decay_BTG.transpose(1, 2), beta_BTG.transpose(1, 2), state["S"],
                self.chunk(x_BTD), since_BT,
            )  # fmt: skip
            # The paper's outputs are K^(-1/2) times these: their norm is the same with eps times K.
            o_BTGV = rms_norm(o_BGTV.transpose(1, 2), self.norm_weight_V.to(dtype), K * self.norm_eps)
        gated = o_BTGV.flatten(-2) * F.silu(self.gate(x_BTD))
        return self.output(gated.to(x_BTD.dtype)), {"S": S, "past": past}

    def _value_heads_of(self, x_BTHK: Tensor) -> Tensor:
        """(B, G, T, K): the queries or keys of every value head."""
        x_BHTK, served = x_BTHK.transpose(1, 2), self.value_heads // self.n_head
        return x_BHTK.repeat_interleave(served, dim=1) if served > 1 else x_BHTK

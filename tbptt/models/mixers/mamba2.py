"""Mamba-2 (Dao and Gu 2024, arXiv 2405.21060): state space duality, one decay per head.

Shapes: B lanes, T tokens, D model size, H heads, P channels of a head, G groups, N state size, E = H P.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tbptt.errors import UserError
from tbptt.models.mixers.initialisation import init_linear, init_log_decay, init_time_step
from tbptt.models.mixers.joined_linear import joined_linear
from tbptt.models.mixers.protocol import Mixer, MixerConfig
from tbptt.models.mixers.scalar_decay import scalar_decay_attention
from tbptt.models.mixers.short_convolution import ShortConvolution
from tbptt.models.norms import rms_norm
from tbptt.models.protocol import State


@dataclass
class Mamba2Config(MixerConfig):
    NAME: ClassVar[str] = "mamba2"

    expand: float = 2.0  # E / D
    d_head: int = 32  # P
    d_state: int = 64  # N
    n_group: int = 1  # heads of one group share their keys and queries (B and C in the paper)
    conv_width: int = 4  # tokens that the short convolution sees
    bias: bool = False  # of the linear maps
    conv_bias: bool = True  # a bias in the short convolution
    norm_eps: float = 1e-5  # of its norm: added to the mean square
    chunk_len: int = 64  # tokens that the plain form computes at once; no result depends on it

    def check(self, d_model: int) -> None:
        self.check_at_least(1, "d_head", "d_state", "n_group", "conv_width", "chunk_len")
        inner = self.expand * d_model
        if inner < 1 or inner % (self.d_head * self.n_group):
            raise UserError(
                f"model.mamba2.expand={self.expand} times model.d_model={d_model} must be a multiple of "
                f"model.mamba2.d_head={self.d_head} times model.mamba2.n_group={self.n_group}"
            )

    def kernel_sizes(self) -> tuple[int, int]:
        return self.d_state, self.d_head

    def build(self, d_model: int, layer: int, n_layer: int) -> Mamba2:
        return Mamba2(self, d_model, n_layer)


class Mamba2(Mixer):
    """The state is S (B, H, N, P), and the past inputs of the convolution (B, conv_width - 1, E + 2 G N)."""

    def __init__(self, config: Mamba2Config, d_model: int, n_layer: int):
        super().__init__()
        c, E = config, int(config.expand * d_model)
        self.n_layer, self.n_head, self.d_head, self.n_group, self.d_state = (
            n_layer, E // c.d_head, c.d_head, c.n_group, c.d_state,
        )  # fmt: skip
        self.norm_eps, self.chunk_len = c.norm_eps, c.chunk_len
        self.gate = nn.Linear(d_model, E, bias=c.bias)
        self.value = nn.Linear(d_model, E, bias=c.bias)
        self.key = nn.Linear(d_model, c.n_group * c.d_state, bias=c.bias)
        self.query = nn.Linear(d_model, c.n_group * c.d_state, bias=c.bias)
        self.time_step = nn.Linear(d_model, self.n_head, bias=c.bias)
        self.output = nn.Linear(E, d_model, bias=c.bias)
        self.convolution = ShortConvolution(E + 2 * c.n_group * c.d_state, c.conv_width, bias=c.conv_bias)
        self.A_log_H = nn.Parameter(torch.empty(self.n_head))
        self.dt_bias_H = nn.Parameter(torch.empty(self.n_head))
        self.skip_H = nn.Parameter(torch.empty(self.n_head))
        self.norm_weight_E = nn.Parameter(torch.empty(E))

    @torch.no_grad()
    def reset_parameters(self) -> None:
        init_linear(self)
        self.output.weight /= self.n_layer**0.5
        bound = self.convolution.weight_CW.shape[1] ** -0.5  # torch's of a convolution
        self.convolution.weight_CW.uniform_(-bound, bound)
        if self.convolution.bias_C is not None:
            self.convolution.bias_C.uniform_(-bound, bound)
        init_log_decay(self.A_log_H, 1, 16)
        init_time_step(self.dt_bias_H)
        self.skip_H.fill_(1)
        self.norm_weight_E.fill_(1)

    def initial_state(self, batch_size: int) -> State:
        channels, width = self.convolution.weight_CW.shape
        return {
            "S": self.state_zeros(batch_size, self.n_head, self.d_state, self.d_head),
            "past": self.state_zeros(batch_size, width - 1, channels),
        }

    def forward(self, x_BTD: Tensor, state: State, since_BT: Tensor | None = None) -> tuple[Tensor, State]:
        H, P, G, N = self.n_head, self.d_head, self.n_group, self.d_state
        projected = joined_linear(x_BTD, self.value, self.key, self.query)
        convolved, past = self.convolution(projected, state["past"], since_BT)
        dtype = state["S"].dtype
        v, k, q = F.silu(convolved).to(dtype).split([H * P, G * N, G * N], dim=-1)
        v_BHTP = v.unflatten(-1, (H, P)).transpose(1, 2)
        k_BGTN, q_BGTN = (x.unflatten(-1, (G, N)).transpose(1, 2) for x in (k, q))
        dt_BHT = F.softplus(self.time_step(x_BTD).to(dtype) + self.dt_bias_H).transpose(1, 2)
        log_decay_BHT = -self.A_log_H.to(dtype).exp()[:, None] * dt_BHT
        recurrence = self.recurrence(scalar_decay_attention, x_BTD)
        with torch.autocast(x_BTD.device.type, enabled=False):
            y_BHTP, S = recurrence(
                q_BGTN, k_BGTN, v_BHTP * dt_BHT.unsqueeze(-1), log_decay_BHT, state["S"], self.chunk(x_BTD), since_BT
            )
            y_BHTP = y_BHTP + self.skip_H.to(dtype)[:, None, None] * v_BHTP
        gated_BTE = y_BHTP.transpose(1, 2).flatten(-2) * F.silu(self.gate(x_BTD))
        normed = rms_norm(gated_BTE.unflatten(-1, (G, -1)), None, self.norm_eps).flatten(-2)
        return self.output((normed * self.norm_weight_E).to(x_BTD.dtype)), {"S": S, "past": past}

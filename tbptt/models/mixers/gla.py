"""Gated linear attention (Yang et al. 2023, arXiv 2312.06635): a decay for every channel of the keys.

Shapes: B lanes, T tokens, D model size, H heads, K and V sizes of a key and of a value.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tbptt.models.mixers.channel_decay import channel_decay_attention
from tbptt.models.mixers.initialisation import init_linear
from tbptt.models.mixers.protocol import Mixer, MixerConfig
from tbptt.models.norms import rms_norm
from tbptt.models.protocol import State

DECAY_ROOT = 16  # the decay is the 16th root of a sigmoid: slow at first


@dataclass
class GLAConfig(MixerConfig):
    NAME: ClassVar[str] = "gla"

    n_head: int = 4
    d_key: int = 32  # of a head
    d_value: int = 64  # of a head
    decay_rank: int = 16  # of the two matrices that make the decays
    norm_eps: float = 1e-5  # of its norm: added to the mean square
    chunk_len: int = 8  # tokens that the plain form computes at once; no result depends on it

    def check(self, d_model: int) -> None:
        self.check_at_least(1, "n_head", "d_key", "d_value", "decay_rank", "chunk_len")

    def kernel_sizes(self) -> tuple[int, int]:
        return self.d_key, self.d_value

    def build(self, d_model: int, layer: int, n_layer: int) -> GLA:
        return GLA(self, d_model)


class GLA(Mixer):
    """The state is S (B, H, K, V)."""

    def __init__(self, config: GLAConfig, d_model: int):
        super().__init__()
        c = config
        self.n_head, self.d_key, self.d_value = c.n_head, c.d_key, c.d_value
        self.norm_eps, self.chunk_len = c.norm_eps, c.chunk_len
        self.query = nn.Linear(d_model, c.n_head * c.d_key, bias=False)
        self.key = nn.Linear(d_model, c.n_head * c.d_key, bias=False)
        self.value = nn.Linear(d_model, c.n_head * c.d_value, bias=False)
        self.decay_in = nn.Linear(d_model, c.decay_rank, bias=False)
        self.decay_out = nn.Linear(c.decay_rank, c.n_head * c.d_key)
        self.gate = nn.Linear(d_model, c.n_head * c.d_value, bias=False)
        self.output = nn.Linear(c.n_head * c.d_value, d_model, bias=False)
        self.norm_weight_V = nn.Parameter(torch.empty(c.d_value))

    @torch.no_grad()
    def reset_parameters(self) -> None:
        init_linear(self)
        self.norm_weight_V.fill_(1)

    def initial_state(self, batch_size: int) -> State:
        return {"S": self.state_zeros(batch_size, self.n_head, self.d_key, self.d_value)}

    def forward(self, x_BTD: Tensor, state: State, since_BT: Tensor | None = None) -> tuple[Tensor, State]:
        H, K, dtype = self.n_head, self.d_key, state["S"].dtype
        q_BHTK, k_BHTK, v_BHTV = (
            layer(x_BTD).to(dtype).unflatten(-1, (H, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        log_decay = F.logsigmoid(self.decay_out(self.decay_in(x_BTD)).to(dtype)) / DECAY_ROOT
        log_decay_BHTK = log_decay.unflatten(-1, (H, K)).transpose(1, 2)
        recurrence = self.recurrence(channel_decay_attention, x_BTD)
        with torch.autocast(x_BTD.device.type, enabled=False):
            o_BHTV, S = recurrence(
                q_BHTK * K**-0.5, k_BHTK, v_BHTV, log_decay_BHTK, state["S"], self.chunk(x_BTD), since_BT
            )
            o_BTHV = rms_norm(o_BHTV.transpose(1, 2), self.norm_weight_V.to(dtype), self.norm_eps)
        gated = o_BTHV.flatten(-2) * F.silu(self.gate(x_BTD))
        return self.output(gated.to(x_BTD.dtype)), {"S": S}

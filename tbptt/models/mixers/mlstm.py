"""mLSTM of xLSTM's large form (Beck et al. 2024, arXiv 2405.04517; 2025, arXiv 2503.13427): exponential gates.

    m_t = max(log f_t + m_(t-1), i_t),   C_t = e^(log f_t + m_(t-1) - m_t) C_(t-1) + e^(i_t - m_t) k_t v_t^T,
    n_t likewise with k_t,   h_t = C_t^T q_t / (max(|n_t^T q_t|, e^(-m_t)) + eps)

m keeps the exponents small; C e^m and n e^m do not depend on it, nor h without eps.

Shapes: B lanes, T tokens, D model size, H heads, K and V sizes of a key and of a value, C tokens of a chunk.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tbptt.errors import UserError
from tbptt.models.mixers.chunks import LogDecays, carry, document_starts, factors, join_chunks, split_chunks
from tbptt.models.mixers.initialisation import init_linear
from tbptt.models.mixers.protocol import Mixer, MixerConfig
from tbptt.models.protocol import State
from tbptt.models.soft_cap import soft_cap


@dataclass
class MLSTMConfig(MixerConfig):
    NAME: ClassVar[str] = "mlstm"

    n_head: int = 4
    d_key: int = 32  # of a head
    d_value: int = 64  # of a head
    gate_cap: float = 15.0  # soft cap of the input and forget gates before their exponential and sigmoid
    bias: bool = False  # of the linear maps that are no gates, and of the norm
    eps: float = 1e-6  # added to the denominator; with 0 the outputs do not depend on m at all
    norm_eps: float = 1e-6  # of its norm: added to the variance
    chunk_len: int = 32  # tokens computed at once; no result depends on it

    def check(self, d_model: int) -> None:
        self.check_at_least(1, "n_head", "d_key", "d_value", "chunk_len")
        if not 0 < self.gate_cap <= 80:
            raise UserError(
                f"model.mlstm.gate_cap={self.gate_cap} must be positive and at most 80: exp of a gate is a float32"
            )

    def build(self, d_model: int, layer: int, n_layer: int) -> MLSTM:
        return MLSTM(self, d_model, n_layer)


class MLSTM(Mixer):
    """The state is C (B, H, K, V), n (B, H, K) and m (B, H)."""

    NOT_MATRICES: ClassVar = ("norm_weight_HV", "norm_bias_HV")

    def __init__(self, config: MLSTMConfig, d_model: int, n_layer: int):
        super().__init__()
        c, self.n_layer, self.d_model = config, n_layer, d_model
        self.n_head, self.d_key, self.d_value, self.gate_cap = c.n_head, c.d_key, c.d_value, c.gate_cap
        self.eps, self.norm_eps, self.chunk_len = c.eps, c.norm_eps, c.chunk_len
        self.query = nn.Linear(d_model, c.n_head * c.d_key, bias=c.bias)
        self.key = nn.Linear(d_model, c.n_head * c.d_key, bias=c.bias)
        self.value = nn.Linear(d_model, c.n_head * c.d_value, bias=c.bias)
        self.input_gate = nn.Linear(d_model, c.n_head)
        self.forget_gate = nn.Linear(d_model, c.n_head)
        self.output_gate = nn.Linear(d_model, c.n_head * c.d_value, bias=c.bias)
        self.output = nn.Linear(c.n_head * c.d_value, d_model, bias=c.bias)
        self.norm_weight_HV = nn.Parameter(torch.empty(c.n_head, c.d_value))
        self.norm_bias_HV = nn.Parameter(torch.empty(c.n_head, c.d_value)) if c.bias else None

    @torch.no_grad()
    def reset_parameters(self) -> None:
        init_linear(self, (2 / (5 * self.d_model)) ** 0.5)
        self.output.weight.normal_(0, 2 / (self.n_layer * self.d_model**0.5))
        self.input_gate.weight.zero_()
        self.forget_gate.weight.zero_()
        self.input_gate.bias.fill_(-10)
        self.forget_gate.bias.copy_(torch.linspace(3, 6, self.n_head))
        self.norm_weight_HV.fill_(1)
        if self.norm_bias_HV is not None:
            self.norm_bias_HV.zero_()

    def initial_state(self, batch_size: int) -> State:
        H, K = self.n_head, self.d_key
        return {
            "C": self.state_zeros(batch_size, H, K, self.d_value),
            "n": self.state_zeros(batch_size, H, K),
            "m": self.state_zeros(batch_size, H),
        }

    def forward(self, x_BTD: Tensor, state: State, since_BT: Tensor | None = None) -> tuple[Tensor, State]:
        H, V, dtype = self.n_head, self.d_value, state["C"].dtype
        q_BHTK, k_BHTK, v_BHTV = (
            layer(x_BTD).to(dtype).unflatten(-1, (H, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        i_BHT, f_BHT = (
            soft_cap(layer(x_BTD).to(dtype), self.gate_cap).transpose(1, 2)
            for layer in (self.input_gate, self.forget_gate)
        )
        with torch.autocast(x_BTD.device.type, enabled=False):
            h_BHTV, C, n, m = mlstm_cell(
                q_BHTK, k_BHTK, v_BHTV, i_BHT, f_BHT, state["C"], state["n"], state["m"], self.chunk(x_BTD), self.eps,
                since_BT,
            )  # fmt: skip
            normed = F.layer_norm(h_BHTV.transpose(1, 2), (V,), eps=self.norm_eps) * self.norm_weight_HV.to(dtype)
            if self.norm_bias_HV is not None:
                normed = normed + self.norm_bias_HV
        gated = normed.flatten(-2) * self.output_gate(x_BTD).sigmoid()
        return self.output(gated.to(x_BTD.dtype)), {"C": C, "n": n, "m": m}


def mlstm_cell(
    q_BHTK: Tensor,
    k_BHTK: Tensor,
    v_BHTV: Tensor,
    i_BHT: Tensor,
    f_BHT: Tensor,
    C_BHKV: Tensor,
    n_BHK: Tensor,
    m_BH: Tensor,
    chunk: int,
    eps: float,
    since_BT: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Outputs (B, H, T, V), and the state after the last token. `i` and `f` are the gates before exp and sigmoid."""
    T = q_BHTK.shape[2]
    # The normaliser n is one more channel of the values, which is always 1.
    v, S = torch.cat([v_BHTV, torch.ones_like(v_BHTV[..., :1])], -1), torch.cat([C_BHKV, n_BHK.unsqueeze(-1)], -1)
    q, k, v = (split_chunks(x, chunk) for x in (q_BHTK * q_BHTK.shape[-1] ** -0.5, k_BHTK, v))
    i = split_chunks(i_BHT, chunk, value=-torch.inf)
    decays = LogDecays(split_chunks(F.logsigmoid(f_BHT), chunk), document_starts(since_BT, chunk))
    L, to_end = decays.between() + i.unsqueeze(-2), decays.to_end() + i
    largest, largest_at_end = L.amax(-1), to_end.amax(-1)
    if decays.start_BNC is not None:
        fresh = _from_empty(decays.c_BHNC, decays.start_BNC)
        largest, largest_at_end = torch.maximum(largest, fresh), torch.maximum(largest_at_end, fresh[..., -1])
    # Without eps nothing depends on m, and its gradient is left out; with eps it is of that order.
    settle = torch.Tensor.detach if eps == 0 else torch.Tensor.clone
    borders = [m_BH]
    for across_BH, largest_BH in zip(decays.across().unbind(2), largest_at_end.unbind(2)):
        borders.append(settle(torch.maximum(across_BH + borders[-1], largest_BH)))
    m_start, m_end = torch.stack(borders[:-1], 2).unsqueeze(-1), torch.stack(borders[1:], 2).unsqueeze(-1)
    from_start = decays.from_start() + m_start
    m = settle(torch.maximum(largest, from_start))
    added = (k * factors(to_end - m_end).unsqueeze(-1)).transpose(-1, -2) @ v
    starts, S = carry(S, factors(from_start[..., -1:] - m_end).squeeze(-1), added)
    h = ((q @ k.transpose(-1, -2)) * factors(L - m.unsqueeze(-1))) @ v
    h = h + (q @ starts) * factors(from_start - m).unsqueeze(-1)
    h = h[..., :-1] / (torch.maximum(h[..., -1:].abs(), factors(-m).unsqueeze(-1)) + eps)
    return join_chunks(h, T), S[..., :-1], S[..., -1], borders[-1]


def _from_empty(c_BHNC: Tensor, start_BNC: Tensor) -> Tensor:
    """What the m of the empty state, 0, has become since a document's start in this chunk, (B, H, N, C); else -inf."""
    # A sum of one entry, not a gather: on a GPU, the gradient of that would be added up in a random order.
    other_BNCJ = start_BNC.clamp(min=0).unsqueeze(-1) != torch.arange(c_BHNC.shape[-1] + 1, device=c_BHNC.device)
    before = F.pad(c_BHNC, (1, 0)).unsqueeze(-2).masked_fill(other_BNCJ.unsqueeze(1), 0).sum(-1)
    return (c_BHNC - before).masked_fill((start_BNC < 0).unsqueeze(1), -torch.inf)

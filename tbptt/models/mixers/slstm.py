"""sLSTM of xLSTM (Beck et al. 2024, arXiv 2405.04517): exponential gates that see the last output, one token at a time.

    m_t = max(i_t, log f_t + m_(t-1)), or i_t after the empty state,
    c_t = e^(log f_t + m_(t-1) - m_t) c_(t-1) + e^(i_t - m_t) tanh(z_t),   n_t likewise with 1,
    y_t = sigmoid(o_t) c_t / n_t

m keeps the exponents small; c e^m and n e^m do not depend on it, so no gradient needs to flow through it.

Shapes: B lanes, T tokens, D model size, H heads, E = D / H; the 4 gates are i, f, z, o.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import repeat
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tbptt.errors import UserError
from tbptt.models.mixers.block_diagonal import BlockDiagonal
from tbptt.models.mixers.protocol import Mixer, MixerConfig
from tbptt.models.mixers.short_convolution import ShortConvolution
from tbptt.models.protocol import State


@dataclass
class SLSTMConfig(MixerConfig):
    NAME: ClassVar[str] = "slstm"

    n_head: int = 4
    conv_width: int = 4  # tokens that the short convolution before the input and forget gates sees
    norm_eps: float = 1e-5  # of its norm: added to the variance

    def check(self, d_model: int) -> None:
        self.check_at_least(1, "n_head", "conv_width")
        if d_model % self.n_head:
            raise UserError(f"model.d_model={d_model} must be a multiple of model.slstm.n_head={self.n_head}")

    def build(self, d_model: int, layer: int, n_layer: int) -> SLSTM:
        return SLSTM(self, d_model, layer, n_layer)


class SLSTM(Mixer):
    """The state is y, c, n, m, each (B, D), and the convolution's past inputs (B, conv_width - 1, D)."""

    NOT_MATRICES: ClassVar = ("bias_4D",)
    COMPILES: ClassVar[bool] = False
    # Of every head and gate.
    PROJECTIONS: ClassVar = {"recurrent_HE4E": lambda x: [gate for head in x.unbind(0) for gate in head.unbind(1)]}

    def __init__(self, config: SLSTMConfig, d_model: int, layer: int, n_layer: int):
        super().__init__()
        self.n_head, self.norm_eps, self.depth = config.n_head, config.norm_eps, layer / max(1, n_layer - 1)
        E = d_model // config.n_head
        self.convolution = ShortConvolution(d_model, config.conv_width, bias=True)
        self.input_gate, self.forget_gate, self.cell_input, self.output_gate = (
            BlockDiagonal(config.n_head, E, E, bias=False) for _ in range(4)
        )
        self.recurrent_HE4E = nn.Parameter(torch.empty(config.n_head, E, 4, E))
        self.bias_4D = nn.Parameter(torch.empty(4, d_model))
        self.norm_weight_D = nn.Parameter(torch.empty(d_model))

    @torch.no_grad()
    def reset_parameters(self) -> None:
        E = self.recurrent_HE4E.shape[1]
        for gate in (self.input_gate, self.forget_gate, self.cell_input, self.output_gate):
            gate.weight_NIO.normal_(0, (2 / (5 * E)) ** 0.5)
        self.convolution.weight_CW.uniform_(-0.5, 0.5)
        assert self.convolution.bias_C is not None
        self.convolution.bias_C.zero_()
        self.recurrent_HE4E.zero_()
        self.bias_4D.zero_()
        # Forget gates of every head from 5 down to -7 by a power law whose exponent grows with depth.
        share = torch.arange(E) / max(1, E - 1)
        self.bias_4D[1] = -(-5 + 12 * share ** (0.3 + 1.3 * self.depth)).repeat(self.n_head)
        self.norm_weight_D.fill_(1)

    def initial_state(self, batch_size: int) -> State:
        D, width = self.convolution.weight_CW.shape
        state = {key: self.state_zeros(batch_size, D) for key in ("y", "c", "n", "m")}
        return state | {"past": self.state_zeros(batch_size, width - 1, D)}

    def forward(self, x_BTD: Tensor, state: State, since_BT: Tensor | None = None) -> tuple[Tensor, State]:
        H, dtype = self.n_head, state["c"].dtype
        convolved, past = self.convolution(x_BTD, state["past"], since_BT)
        convolved = F.silu(convolved)
        gates = (
            self.input_gate(convolved), self.forget_gate(convolved), self.cell_input(x_BTD), self.output_gate(x_BTD),
        )  # fmt: skip
        gates_BT4D = torch.stack([gate.to(dtype) for gate in gates], dim=2) + self.bias_4D
        y, c, n, m = (state[key] for key in ("y", "c", "n", "m"))
        recurrent_HEF, outputs = self.recurrent_HE4E.to(dtype).flatten(2), []
        starts = repeat(None) if since_BT is None else (since_BT == 0).unsqueeze(-1).unbind(1)
        with torch.autocast(x_BTD.device.type, enabled=False):
            for gates_B4D, start_B1 in zip(gates_BT4D.unbind(1), starts):
                if start_B1 is not None:
                    y, n = y.masked_fill(start_B1, 0), n.masked_fill(start_B1, 0)
                fed_back = torch.einsum("bhe,hef->bhf", y.unflatten(-1, (H, -1)), recurrent_HEF)
                fed_back = fed_back.unflatten(-1, (4, -1)).transpose(1, 2).flatten(-2)
                i, f, z, o = (gates_B4D + fed_back).unbind(1)
                kept = (F.logsigmoid(f) + m).masked_fill(n == 0, -torch.inf)  # nothing, of the empty state
                new_m = torch.maximum(i, kept).detach()
                kept, added = (kept - new_m).exp(), (i - new_m).exp()
                c, n, m = kept * c + added * z.tanh(), kept * n + added, new_m
                y = o.sigmoid() * c / n
                outputs.append(y)
            y_BTD = torch.stack(outputs, dim=1)
            normed = F.layer_norm(y_BTD.unflatten(-1, (H, -1)), (y_BTD.shape[-1] // H,), eps=self.norm_eps).flatten(-2)
        return (normed * self.norm_weight_D).to(x_BTD.dtype), {"y": y, "c": c, "n": n, "m": m, "past": past}

"""A layer of LSTM (Hochreiter and Schmidhuber 1997) as a mixer, by torch's own implementation.

Shapes: B lanes, T tokens, D model size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from tbptt.models.lstm_pieces import run_lstm
from tbptt.models.mixers.protocol import Mixer, MixerConfig
from tbptt.models.protocol import State


@dataclass
class LSTMMixerConfig(MixerConfig):
    NAME: ClassVar[str] = "lstm"

    def build(self, d_model: int, layer: int, n_layer: int) -> LSTMMixer:
        return LSTMMixer(d_model)


class LSTMMixer(Mixer):
    """The state is h and c, each (B, D)."""

    COMPILES: ClassVar[bool] = False

    def __init__(self, d_model: int):
        super().__init__()
        self.lstm = nn.LSTM(d_model, d_model, batch_first=True)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """As torch does, but for a forget gate that begins open."""
        self.lstm.reset_parameters()
        D = self.lstm.hidden_size
        for name, parameter in self.lstm.named_parameters():
            if name.startswith("bias"):
                parameter.zero_()
                if name == "bias_ih_l0":
                    parameter[D : 2 * D] = 1

    def initial_state(self, batch_size: int) -> State:
        D = self.lstm.hidden_size
        return {"h": self.state_zeros(batch_size, D), "c": self.state_zeros(batch_size, D)}

    def forward(self, x_BTD: Tensor, state: State, since_BT: Tensor | None = None) -> tuple[Tensor, State]:
        h_1BD, c_1BD = state["h"].unsqueeze(0), state["c"].unsqueeze(0)
        starts_BT = None if since_BT is None else since_BT == 0
        with torch.autocast(x_BTD.device.type, enabled=False):
            y_BTD, (h, c) = run_lstm(self.lstm, x_BTD.to(c_1BD.dtype), h_1BD, c_1BD, starts_BT)
        return y_BTD.to(x_BTD.dtype), {"h": h.squeeze(0), "c": c.squeeze(0)}

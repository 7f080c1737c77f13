"""The recurrent block of Hawk and Griffin (De et al. 2024, arXiv 2402.19427): a real-gated linear recurrent unit.

    log a_t = -8 sigmoid(r_t) softplus(L),   h_t = a_t h_(t-1) + sqrt(1 - a_t^2) sigmoid(i_t) x_t

The first token of a document comes in without the square root: an empty state is not one of zeros.

Shapes: B lanes, T tokens, D model size, W width of the recurrence.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tbptt.errors import UserError
from tbptt.models.mixers.block_diagonal import BlockDiagonal
from tbptt.models.mixers.protocol import Mixer, MixerConfig
from tbptt.models.mixers.short_convolution import ShortConvolution
from tbptt.models.protocol import State

SHARPNESS = 8.0  # the paper's c
RING = (0.9, 0.999)  # of exp(-softplus(L)) at the start


@dataclass
class RGLRUConfig(MixerConfig):
    NAME: ClassVar[str] = "rg_lru"

    width: int | None = None  # W; d_model if not given
    n_block: int = 4  # of the gates' block-diagonal matrices
    conv_width: int = 4  # tokens that the short convolution sees

    def check(self, d_model: int) -> None:
        self.check_at_least(1, "n_block", "conv_width")
        key, width = ("d_model", d_model) if self.width is None else ("rg_lru.width", self.width)
        if width < 1 or width % self.n_block:
            raise UserError(f"model.{key}={width} must be a multiple of model.rg_lru.n_block={self.n_block}")

    def build(self, d_model: int, layer: int, n_layer: int) -> RGLRU:
        return RGLRU(self, d_model, n_layer)


class RGLRU(Mixer):
    """The state is h (B, W), whether the lane is empty (B, 1), 1 or 0, and the convolution's past inputs (B, ., W)."""

    def __init__(self, config: RGLRUConfig, d_model: int, n_layer: int):
        super().__init__()
        W, blocks, self.n_layer = config.width or d_model, config.n_block, n_layer
        self.gate, self.input, self.output = nn.Linear(d_model, W), nn.Linear(d_model, W), nn.Linear(W, d_model)
        self.convolution = ShortConvolution(W, config.conv_width, bias=True)
        self.recurrence_gate = BlockDiagonal(blocks, W // blocks, W // blocks, bias=True)
        self.input_gate = BlockDiagonal(blocks, W // blocks, W // blocks, bias=True)
        self.decay_W = nn.Parameter(torch.empty(W))  # the paper's Lambda

    @torch.no_grad()
    def reset_parameters(self) -> None:
        for layer in (self.gate, self.input, self.output):
            scale = 2 / self.n_layer if layer is self.output else 1
            layer.weight.normal_(0, (scale / layer.in_features) ** 0.5)
            layer.bias.zero_()
        self.convolution.weight_CW.normal_(0, (0.01 / self.convolution.weight_CW.shape[1]) ** 0.5)
        assert self.convolution.bias_C is not None
        self.convolution.bias_C.zero_()
        for block in (self.recurrence_gate, self.input_gate):
            block.weight_NIO.normal_(0, block.weight_NIO.shape[1] ** -0.5)
            assert block.bias_NO is not None
            block.bias_NO.zero_()
        squared = self.decay_W.uniform_(RING[0] ** 2, RING[1] ** 2)
        self.decay_W.copy_((-0.5 * squared.log()).expm1().log())

    def initial_state(self, batch_size: int) -> State:
        W, width = self.convolution.weight_CW.shape
        return {
            "h": self.state_zeros(batch_size, W),
            "empty": self.state_zeros(batch_size, 1) + 1,
            "past": self.state_zeros(batch_size, width - 1, W),
        }

    def forward(self, x_BTD: Tensor, state: State, since_BT: Tensor | None = None) -> tuple[Tensor, State]:
        dtype = state["h"].dtype
        x_BTW, past = self.convolution(self.input(x_BTD), state["past"], since_BT)
        r_BTW, i_BTW, x_BTW = (y.to(dtype) for y in (self.recurrence_gate(x_BTW), self.input_gate(x_BTW), x_BTW))
        with torch.autocast(x_BTD.device.type, enabled=False):
            h_BTW = rg_lru(x_BTW, r_BTW, i_BTW, self.decay_W.to(dtype), state["h"], state["empty"], since_BT)
        gated = h_BTW * F.gelu(self.gate(x_BTD), approximate="tanh")
        new = {"h": h_BTW[:, -1], "empty": torch.zeros_like(state["empty"]), "past": past}
        return self.output(gated.to(x_BTD.dtype)), new


def rg_lru(
    x_BTW: Tensor, r_BTW: Tensor, i_BTW: Tensor, decay_W: Tensor, h_BW: Tensor, empty_B1: Tensor,
    since_BT: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """All h (B, T, W), from the state h and whether it is empty (1 or 0); gates before their sigmoid."""
    log_a = -SHARPNESS * r_BTW.sigmoid() * F.softplus(decay_W)
    first_BT1 = F.pad(empty_B1.unsqueeze(1), (0, 0, 0, x_BTW.shape[1] - 1)) > 0
    if since_BT is not None:
        first_BT1 = first_BT1 | (since_BT == 0).unsqueeze(-1)
    # The root's gradient at a = 1 is infinite; where it is not wanted, it is not taken, nor where a has rounded to 1.
    scale = torch.where(first_BT1, 1.0, -torch.expm1(2 * log_a)).clamp(min=torch.finfo(log_a.dtype).tiny).sqrt()
    if since_BT is not None:
        log_a = log_a.masked_fill(first_BT1, -torch.inf)  # the scan sums them, and takes no differences
    return linear_scan(log_a, scale * i_BTW.sigmoid() * x_BTW, h_BW)


def linear_scan(log_a_BTW: Tensor, x_BTW: Tensor, h_BW: Tensor) -> Tensor:
    """h_t = a_t h_(t-1) + x_t for all t, in N chunks of C = sqrt(T) tokens.

    First token by token in all chunks at once, as if every chunk began at zero; then from chunk to chunk.
    """
    T = x_BTW.shape[1]
    C = math.isqrt(T - 1) + 1
    log_a_BNCW, x_BNCW = (F.pad(y, (0, 0, 0, -T % C)).unflatten(1, (-1, C)) for y in (log_a_BTW, x_BTW))
    kept_BNCW, inside = log_a_BNCW.cumsum(2).exp(), [x_BNCW[:, :, 0]]
    for a_BNW, x_BNW in zip(log_a_BNCW.exp().unbind(2)[1:], x_BNCW.unbind(2)[1:]):
        inside.append(a_BNW * inside[-1] + x_BNW)
    starts = [h_BW]
    for kept_BW, inside_BW in zip(kept_BNCW[:, :, -1].unbind(1), inside[-1].unbind(1)):
        starts.append(kept_BW * starts[-1] + inside_BW)
    h_BNCW = kept_BNCW * torch.stack(starts[:-1], 1).unsqueeze(2) + torch.stack(inside, 2)
    return h_BNCW.flatten(1, 2)[:, :T]

"""A causal depthwise convolution over a few tokens, whose state is the inputs that the next segment's first taps need.

Shapes: B lanes, T tokens, C channels, W taps; P = W - 1 past inputs, oldest first, zeros before the first token.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ShortConvolution(nn.Module):
    """y_t = sum_j weight_j * x_(t - W + 1 + j) (+ bias): the last tap meets the current token."""

    def __init__(self, channels: int, width: int = 4, bias: bool = False):
        super().__init__()
        self.weight_CW = nn.Parameter(torch.empty(channels, width))
        self.bias_C = nn.Parameter(torch.empty(channels)) if bias else None

    def forward(self, x_BTC: Tensor, past_BPC: Tensor) -> tuple[Tensor, Tensor]:
        """The convolved (B, T, C), in the dtype of x, and the last P inputs, in that of `past_BPC`."""
        T, P = x_BTC.shape[1], past_BPC.shape[1]
        inputs = torch.cat([past_BPC.to(x_BTC.dtype), x_BTC], dim=1)
        weight_CW = self.weight_CW.to(x_BTC.dtype)
        # Shifted sums: half the time of torch's grouped convolution on a CPU.
        y_BTC = inputs[:, :T] * weight_CW[:, 0]
        for tap in range(1, P + 1):
            y_BTC = torch.addcmul(y_BTC, inputs[:, tap : tap + T], weight_CW[:, tap])
        if self.bias_C is not None:
            y_BTC = y_BTC + self.bias_C.to(x_BTC.dtype)
        return y_BTC, inputs[:, T:].to(past_BPC.dtype, copy=True)

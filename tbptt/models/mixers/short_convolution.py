"""A causal depthwise convolution over a few tokens, whose state is the inputs that the next segment's first taps need.

Shapes: B lanes, T tokens, C channels, W taps; P = W - 1 past inputs, oldest first, zeros before the first token.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ShortConvolution(nn.Module):
    """y_t = sum_j weight_j * x_(t - W + 1 + j) (+ bias): the last tap meets the current token."""

    NOT_MATRICES: ClassVar = ("weight_CW",)

    def __init__(self, channels: int, width: int = 4, bias: bool = False):
        super().__init__()
        self.weight_CW = nn.Parameter(torch.empty(channels, width))
        self.bias_C = nn.Parameter(torch.empty(channels)) if bias else None

    def forward(self, x_BTC: Tensor, past_BPC: Tensor, since_BT: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The convolved (B, T, C), in the dtype of x, and the last P inputs, in that of `past_BPC`.

        With `since_BT` (documents.py) no tap looks past the start of its document: zeros are before it.
        """
        T, weight_CW = x_BTC.shape[1], self.weight_CW.to(x_BTC.dtype)
        inputs = torch.cat([past_BPC.to(x_BTC.dtype), x_BTC], dim=1)
        past = inputs[:, T:].to(past_BPC.dtype, copy=True)
        if since_BT is None:
            y_BTC = Correlation.apply(inputs, weight_CW)
        else:
            y_BTC = MaskedCorrelation.apply(inputs, weight_CW, since_BT)
            lag_P = torch.arange(past.shape[1] - 1, -1, -1, device=past.device)  # behind the last token
            past = past.masked_fill((lag_P > since_BT[:, -1:]).unsqueeze(-1), 0)
        if self.bias_C is not None:
            y_BTC = y_BTC + self.bias_C.to(x_BTC.dtype)
        return y_BTC, past


class Correlation(torch.autograd.Function):
    """The weighted sums of W neighbouring inputs (B, T + W - 1, C), for T outputs.

    Autograd's own gradient of such sums takes five passes for every tap, and that of torch's convolution longer yet.
    """

    @staticmethod
    def forward(ctx, inputs: Tensor, weight_CW: Tensor) -> Tensor:
        ctx.save_for_backward(inputs, weight_CW)
        return correlate(inputs, weight_CW)

    @staticmethod
    def backward(ctx, dy_BTC: Tensor) -> tuple[Tensor, Tensor]:
        inputs, weight_CW = ctx.saved_tensors
        T, W = dy_BTC.shape[1], weight_CW.shape[1]
        if dy_BTC.device.type == "cpu" and dy_BTC.dtype.itemsize >= 4:
            # Of all lanes into one sum, which stays in the cache; in 16 bits it would be rounded at every lane.
            windows_BWTC = inputs.unfold(1, T, 1).transpose(2, 3)
            products_WTC = dy_BTC[0] * windows_BWTC[0]
            for dy_TC, windows_WTC in zip(dy_BTC[1:], windows_BWTC[1:]):
                products_WTC.addcmul_(dy_TC, windows_WTC)
            d_weight_WC = products_WTC.sum(1)
        else:
            d_weight_WC = torch.stack([(dy_BTC * inputs[:, tap : tap + T]).sum((0, 1)) for tap in range(W)])
        return correlate(dy_BTC, weight_CW.flip(1), padding=W - 1), d_weight_WC.t()


class MaskedCorrelation(torch.autograd.Function):
    """The same, where an input that lies d tokens back counts if and only if d <= since_t."""

    @staticmethod
    def forward(ctx, inputs: Tensor, weight_CW: Tensor, since_BT: Tensor) -> Tensor:
        ctx.save_for_backward(inputs, weight_CW, since_BT)
        T, W = since_BT.shape[1], weight_CW.shape[1]
        y_BTC = inputs[:, W - 1 :] * weight_CW[:, W - 1]
        for tap in range(W - 1):
            y_BTC.addcmul_(_reached(inputs[:, tap : tap + T], since_BT, W - 1 - tap), weight_CW[:, tap])
        return y_BTC

    @staticmethod
    def backward(ctx, dy_BTC: Tensor) -> tuple[Tensor, Tensor, None]:
        inputs, weight_CW, since_BT = ctx.saved_tensors
        T, W = since_BT.shape[1], weight_CW.shape[1]
        d_inputs, taps = torch.zeros_like(inputs), []
        for tap in range(W):
            dy = _reached(dy_BTC, since_BT, W - 1 - tap)
            d_inputs[:, tap : tap + T].addcmul_(dy, weight_CW[:, tap])
            taps.append((dy * inputs[:, tap : tap + T]).sum((0, 1)))
        return d_inputs, torch.stack(taps, dim=1), None


def _reached(x_BTC: Tensor, since_BT: Tensor, lag: int) -> Tensor:
    """x where the input that lies `lag` tokens back belongs to the same document, else 0."""
    return x_BTC.masked_fill((since_BT < lag).unsqueeze(-1), 0) if lag else x_BTC


def correlate(inputs: Tensor, weight_CW: Tensor, padding: int = 0) -> Tensor:
    """y_t = sum_j weight_j * inputs_(t + j), of inputs with zeros before and after them."""
    if inputs.device.type == "cpu" and inputs.dtype is not torch.float64:
        # One pass with channels last, ten times as fast as the sums below; float64 has no such form.
        with torch.autocast("cpu", enabled=False):
            x_BC1I = inputs.transpose(1, 2).unsqueeze(2)
            y_BC1T = F.conv2d(x_BC1I, weight_CW[:, None, None], padding=(0, padding), groups=len(weight_CW))
            return y_BC1T.squeeze(2).transpose(1, 2)
    inputs = F.pad(inputs, (0, 0, padding, padding))
    W = weight_CW.shape[1]
    T = inputs.shape[1] - W + 1
    y_BTC = inputs[:, :T] * weight_CW[:, 0]
    for tap in range(1, W):
        y_BTC.addcmul_(inputs[:, tap : tap + T], weight_CW[:, tap])
    return y_BTC

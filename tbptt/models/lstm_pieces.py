"""torch's nn.LSTM, also where documents start in a segment, which it does not know.

Shapes: B lanes, T tokens of the segment, L layers, D model size.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn


def run_lstm(
    lstm: nn.Module, x_BTD: Tensor, h_LBD: Tensor, c_LBD: Tensor, starts_BT: Tensor | None
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """As `lstm(x, (h, c))`, with h and c emptied where a document starts (bool).

    The segment is cut wherever a document starts in any lane: one call of nn.LSTM a piece, and on a GPU the host waits
    for the device to learn where. Without starts (None) it is one call, and no waiting.
    """
    if starts_BT is None:
        return lstm(x_BTD, (h_LBD.contiguous(), c_LBD.contiguous()))  # cuDNN refuses views
    T = x_BTD.shape[1]
    cuts, outputs = starts_BT.any(0).nonzero().flatten().tolist(), []
    for begin, end in pairwise(sorted({0, *cuts, T})):
        start_B1 = starts_BT[:, begin, None]
        h_LBD, c_LBD = (x.masked_fill(start_B1, 0) for x in (h_LBD, c_LBD))
        y_BTD, (h_LBD, c_LBD) = lstm(x_BTD[:, begin:end], (h_LBD, c_LBD))
        outputs.append(y_BTD)
    return torch.cat(outputs, dim=1), (h_LBD, c_LBD)

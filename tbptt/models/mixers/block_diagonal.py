"""A linear map that mixes the channels of each block among themselves.

Shapes: N blocks of I inputs and O outputs, in any number of leading axes.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn


class BlockDiagonal(nn.Module):
    NOT_MATRICES: ClassVar = ("bias_NO",)

    def __init__(self, n_block: int, d_in: int, d_out: int, bias: bool):
        """`d_in` and `d_out` are those of one block."""
        super().__init__()
        self.weight_NIO = nn.Parameter(torch.empty(n_block, d_in, d_out))
        self.bias_NO = nn.Parameter(torch.empty(n_block, d_out)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """(..., N I) -> (..., N O)."""
        N, inputs, _ = self.weight_NIO.shape
        y = torch.einsum("...ni,nio->...no", x.unflatten(-1, (N, inputs)), self.weight_NIO)
        return (y if self.bias_NO is None else y + self.bias_NO).flatten(-2)

"""The feed-forward layers of a stack, plain or gated.

Shapes: B lanes, T tokens of the segment, D model size, I hidden units.
"""

from __future__ import annotations

from enum import Enum

from torch import Tensor, nn
from torch.nn import functional as F


class FeedForwardKind(Enum):
    none = "none"
    relu = "relu"
    gelu = "gelu"
    swiglu = "swiglu"  # silu(W x) * V x (Shazeer 2020)
    geglu = "geglu"  # the same with gelu


class FeedForward(nn.Module):
    def __init__(self, d_model: int, d_inner: int, kind: FeedForwardKind, bias: bool = False):
        super().__init__()
        self.kind, self.gated = kind, kind in (FeedForwardKind.swiglu, FeedForwardKind.geglu)
        self.inner = nn.Linear(d_model, d_inner, bias)
        self.gate = nn.Linear(d_model, d_inner, bias) if self.gated else None
        self.outer = nn.Linear(d_inner, d_model, bias)

    def forward(self, x_BTD: Tensor) -> Tensor:
        h_BTI = self.inner(x_BTD)
        if self.gate is None:
            return self.outer(F.relu(h_BTI) if self.kind is FeedForwardKind.relu else F.gelu(h_BTI))
        g_BTI = self.gate(x_BTD)
        g_BTI = F.silu(g_BTI) if self.kind is FeedForwardKind.swiglu else F.gelu(g_BTI, approximate="tanh")
        return self.outer(g_BTI * h_BTI)

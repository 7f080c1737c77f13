"""A soft limit of logits and gates, as xLSTM and Gemma have it."""

from __future__ import annotations

import torch
from torch import Tensor


def soft_cap(x: Tensor, cap: float) -> Tensor:
    """Close to x where it is small, and never beyond the cap."""
    return cap * torch.tanh(x / cap)

"""Several linear maps of one input as one matrix product, in which the input is read, and its gradient made, once."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def joined_linear(x: Tensor, *layers: nn.Linear) -> Tensor:
    """The outputs of all layers one after the other on the last axis; all have a bias, or none."""
    biases = tuple(layer.bias for layer in layers if layer.bias is not None)
    return F.linear(x, torch.cat(tuple(layer.weight for layer in layers)), torch.cat(biases) if biases else None)

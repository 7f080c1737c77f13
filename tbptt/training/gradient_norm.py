"""The norm of all gradients."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

LARGE = 2**18  # entries; the norm of fewer is not worth several threads
PARTS = 16  # not the number of threads, on which the rounding would depend: ranks may have other numbers of them


def total_norm(gradients: Sequence[Tensor]) -> Tensor:
    """As `get_total_norm`, with large ones in parts on a CPU, for several threads: torch takes a whole norm in one."""

    def parts(gradient: Tensor) -> Tensor:
        if gradient.device.type != "cpu" or gradient.numel() < LARGE or gradient.numel() % PARTS:
            return gradient
        return torch.linalg.vector_norm(gradient.reshape(PARTS, -1), dim=1)

    return nn.utils.get_total_norm([parts(gradient) for gradient in gradients])

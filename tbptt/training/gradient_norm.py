"""The norm of all gradients."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

LARGE = 2**18  # entries; the norm of fewer is not worth several threads


def total_norm(gradients: Sequence[Tensor]) -> Tensor:
    """As `get_total_norm`, with large ones in a part for every thread of a CPU: torch takes a whole norm in one."""
    threads = torch.get_num_threads()

    def parts(gradient: Tensor) -> Tensor:
        if gradient.device.type != "cpu" or gradient.numel() < LARGE or gradient.numel() % threads:
            return gradient
        return torch.linalg.vector_norm(gradient.reshape(threads, -1), dim=1)

    return nn.utils.get_total_norm([parts(gradient) for gradient in gradients])

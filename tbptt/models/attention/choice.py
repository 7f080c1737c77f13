"""Which implementation of relative attention runs: the plain one, which defines it, or the fused one, which is fast."""

from __future__ import annotations

import os
from enum import Enum
from importlib.util import find_spec

import torch

HAS_TRITON = find_spec("triton") is not None
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # Triton's own switch: kernels run, slowly, on a processor
LARGEST_HEAD = 256  # whose tiles a GPU's registers and shared memory hold


class Attention(Enum):
    auto = "auto"  # fused where it can run on a GPU, else plain
    plain = "plain"
    fused = "fused"  # one Triton kernel; the scores are never stored


def fused_obstacle(d_head: int, device: torch.device, dtype: torch.dtype) -> str | None:
    """Why fused attention cannot run with this head size, device and dtype of weights; None if it can."""
    if not HAS_TRITON:
        return "needs Triton, which is not installed"
    if device.type != "cuda" and not INTERPRETED:
        return "needs a GPU"
    if dtype == torch.float64:
        return "has no float64"
    if d_head > LARGEST_HEAD:
        return f"has no heads above {LARGEST_HEAD}, and model.d_head={d_head}"
    return None


def pick_attention(choice: Attention, d_head: int, device: torch.device, dtype: torch.dtype) -> Attention:
    """What `auto` stands for here; other choices stand for themselves."""
    if choice is not Attention.auto:
        return choice
    can_run = device.type == "cuda" and fused_obstacle(d_head, device, dtype) is None
    return Attention.fused if can_run else Attention.plain

"""Choice of the relative attention implementation: plain PyTorch (the definition) or fused Triton kernels (fast)."""

from __future__ import annotations

import os
from enum import Enum
from importlib.util import find_spec

import torch

from tbptt.errors import UserError

HAS_TRITON = find_spec("triton") is not None
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # Triton's own switch: interpret kernels on a CPU
MAX_HEAD_SIZE = 256  # d_head above which tiles no longer fit registers and shared memory


class Attention(Enum):
    auto = "auto"  # fused on a GPU that can run it, else plain; on a CPU with the gradient by hand
    plain = "plain"  # the definition
    fused = "fused"  # Triton kernels that do not store the scores


def fused_obstacle(d_head: int, device: torch.device, dtype: torch.dtype) -> str | None:
    """Why fused attention cannot run with this head size, device and weight dtype (a verb phrase); None if it can."""
    if not HAS_TRITON:
        return "needs Triton, which is not installed"
    if device.type != "cuda" and not INTERPRETED:
        return "needs a GPU"
    if dtype == torch.float64:
        return "has no float64 kernels"
    if d_head > MAX_HEAD_SIZE:
        return f"supports a head size of at most {MAX_HEAD_SIZE}, not d_head={d_head}"
    return None


def check_attention(key: str, choice: Attention, d_head: int, device: torch.device, dtype: torch.dtype) -> None:
    """UserError if the choice, made by the setting `key`, cannot run."""
    obstacle = fused_obstacle(d_head, device, dtype)
    if choice is Attention.fused and obstacle:
        raise UserError(f"{key}=fused {obstacle}: use {key}=auto or plain")


def pick_attention(choice: Attention, d_head: int, device: torch.device, dtype: torch.dtype) -> Attention:
    """The implementation to run: resolves `auto`, and returns other choices unchanged."""
    if choice is not Attention.auto:
        return choice
    can_run = device.type == "cuda" and fused_obstacle(d_head, device, dtype) is None
    return Attention.fused if can_run else Attention.plain

"""Which device a run uses and in which precision it computes there."""

from __future__ import annotations

import ctypes
from contextlib import AbstractContextManager, nullcontext
from enum import Enum

import torch

from tbptt.errors import UserError


class Precision(Enum):
    fp32 = "fp32"
    bf16 = "bf16"  # mixed: weights in float32, products in bfloat16
    fp16 = "fp16"  # mixed, with loss scaling
    fp64 = "fp64"  # for checks


MIXED = {Precision.bf16: torch.bfloat16, Precision.fp16: torch.float16}


def pick_device(name: str) -> torch.device:
    """`auto` is the GPU if there is one. UserError for a device this machine does not have."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda"):
            raise RuntimeError
    except RuntimeError:
        raise UserError(f"trainer.device={name} is no device: it may be auto, cpu, cuda, cuda:0, cuda:1, ...") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        there = f"it has {torch.cuda.device_count()} GPUs"
        raise UserError(f"trainer.device={name} is not on this machine, {there}: use cpu or auto")
    return device


def keep_freed_memory() -> None:
    """Let this process keep the memory that tensors on a processor give back, as PyTorch does on a GPU.

    glibc returns large blocks to the system, and when the next step asks for them anew, every page costs a fault.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):  # glibc's; the numbers are of its malloc.h
        M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
        library.mallopt(M_MMAP_THRESHOLD, 2**25)  # its largest value
        library.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def send(x: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor of the host on its way to the device. The host goes on at once, which it can only from pinned memory."""
    return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x.to(device)


class HostCopy:
    """Numbers on their way from the device to the host, behind all that the device was asked to do before."""

    def __init__(self, x: torch.Tensor):
        self._x = x.to("cpu", non_blocking=True, copy=True)
        self._arrived = torch.cuda.current_stream(x.device).record_event() if x.is_cuda else None

    def read(self) -> list[float]:
        """Wait for them."""
        if self._arrived:
            self._arrived.synchronize()
        return self._x.tolist()


def parameter_dtype(precision: Precision) -> torch.dtype:
    return torch.float64 if precision is Precision.fp64 else torch.float32


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager:
    """The context a forward pass runs in: mixed precision lowers the products, nothing else."""
    return torch.autocast(device.type, MIXED[precision]) if precision in MIXED else nullcontext()


def product_dtype(x: torch.Tensor) -> torch.dtype:
    """The precision in which a linear layer multiplies `x`: autocast's, if it is on."""
    lowered = torch.is_autocast_enabled(x.device.type)
    return torch.get_autocast_dtype(x.device.type) if lowered else x.dtype


def loss_scaler(device: torch.device, precision: Precision) -> torch.amp.GradScaler:
    """Loss scaling for fp16, whose gradients underflow; a no-op for the others."""
    return torch.amp.GradScaler(device.type, enabled=precision is Precision.fp16)

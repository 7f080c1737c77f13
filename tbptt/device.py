"""The device of a run, the precision it computes in, and copies between host and device."""

from __future__ import annotations

import ctypes
from contextlib import AbstractContextManager, nullcontext
from enum import Enum
from functools import cache

import torch
from torch import nn

from tbptt.errors import UserError


class Precision(Enum):
    fp32 = "fp32"
    bf16 = "bf16"  # mixed: weights in float32, matrix products in bfloat16
    fp16 = "fp16"  # mixed, with loss scaling
    fp64 = "fp64"  # for checks


# Of glibc's malloc.h and Linux's mman.h.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD, MADV_HUGEPAGE = -1, -2, -3, 14
HUGE_PAGE, RESERVED = 2**21, 2**30  # bytes

MIXED = {Precision.bf16: torch.bfloat16, Precision.fp16: torch.float16}


def pick_device(name: str) -> torch.device:
    """Parse `trainer.device`; `auto` is the GPU if there is one. UserError for a device this machine does not have."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda"):
            raise RuntimeError
    except RuntimeError:
        raise UserError(f"trainer.device={name} is not a device: use auto, cpu, cuda, cuda:0, cuda:1, ...") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"trainer.device={name} is not on this machine, which has {torch.cuda.device_count()} GPUs: use cpu or auto"
        )
    return device


def keep_freed_memory() -> None:
    """Make malloc keep the memory of freed CPU tensors in this process, as PyTorch's caching allocator does on a GPU.

    By default glibc returns large blocks to the system, and every page costs a page fault when the next step allocates
    them again. The first GiB lies on huge pages where the system has them: 512 times fewer faults, and the processor
    looks up fewer addresses. It is reserved, not used: a process that needs less memory takes less.
    """
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallopt"):  # not glibc
        return
    library.mallopt(M_MMAP_THRESHOLD, 2**25)  # the largest value allowed
    library.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    library.sbrk.restype, library.sbrk.argtypes = ctypes.c_void_p, [ctypes.c_ssize_t]
    library.malloc.restype, library.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    start = library.sbrk(0)
    library.mallopt(M_TOP_PAD, RESERVED)
    library.free(library.malloc(ctypes.c_size_t(2**24)))  # larger than what is left: the heap grows, by RESERVED more
    library.mallopt(M_TOP_PAD, 2**17)  # glibc's default
    start += -start % HUGE_PAGE
    if (length := library.sbrk(0) - start) > 0:
        library.madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), MADV_HUGEPAGE)


def send(x: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy a host tensor to the device. On a GPU the copy is asynchronous, which requires pinned host memory."""
    return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x.to(device)


class HostCopy:
    """An asynchronous device-to-host copy of a tensor, queued after the work already launched on the device."""

    def __init__(self, x: torch.Tensor):
        self._x = x.to("cpu", non_blocking=True, copy=True)
        self._arrived = torch.cuda.current_stream(x.device).record_event() if x.is_cuda else None

    def read(self) -> list[float]:
        """Wait for the copy and return its values."""
        if self._arrived:
            self._arrived.synchronize()
        return self._x.tolist()


def parameter_dtype(precision: Precision) -> torch.dtype:
    return torch.float64 if precision is Precision.fp64 else torch.float32


def product_dtype(precision: Precision) -> torch.dtype:
    """The dtype in which matrix products run."""
    return MIXED.get(precision, parameter_dtype(precision))


@cache
def cpu_has_bf16() -> bool:
    """Whether oneDNN, which torch multiplies with, knows bfloat16 on this processor; its LSTM says so."""
    try:
        with torch.autocast("cpu", torch.bfloat16), torch.random.fork_rng(devices=[]):
            nn.LSTM(8, 8)(torch.zeros(1, 1, 8))
    except RuntimeError:
        return False
    return True


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager:
    """The context of a forward pass: in mixed precision, matrix products run in 16 bits and all else in float32."""
    return torch.autocast(device.type, MIXED[precision]) if precision in MIXED else nullcontext()


def matmul_dtype(x: torch.Tensor) -> torch.dtype:
    """The dtype in which a linear layer multiplies `x`: that of autocast if it is enabled, else that of `x`."""
    autocast_on = torch.is_autocast_enabled(x.device.type)
    return torch.get_autocast_dtype(x.device.type) if autocast_on else x.dtype


def loss_scaler(device: torch.device, precision: Precision) -> torch.amp.GradScaler:
    """Loss scaling for fp16, whose gradients underflow; disabled for the other precisions."""
    return torch.amp.GradScaler(device.type, enabled=precision is Precision.fp16)

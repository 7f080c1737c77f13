"""What can be measured of training without waiting for the device: the host's time, memory, use of the peak speed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from tbptt.device import Precision
from tbptt.launch.world import World
from tbptt.models.protocol import RecurrentModel

# Floating-point operations per second of a GPU, by a part of its name: of dense products in 16 bits, and in float32
# without TF32. From NVIDIA's data sheets; the first name that fits counts.
PEAKS = {
    "H100 PCIe": (756e12, 51e12),
    "H100 NVL": (835e12, 60e12),
    "H100": (989e12, 67e12),
    "H200": (989e12, 67e12),  # GH200 too
    "A100": (312e12, 19.5e12),
    "L40S": (362e12, 91.6e12),
}
PARTS = ("data", "compute", "wait")


def peak_flops(device_name: str, precision: Precision) -> float | None:
    """The peak of one device; None if it is not known."""
    peaks = next((peaks for name, peaks in PEAKS.items() if name in device_name), None)
    if peaks is None or precision is Precision.fp64:
        return None
    return peaks[precision is Precision.fp32]


def training_flops(model: RecurrentModel, tgt_len: int) -> float:
    """Estimated floating-point operations per trained token.

    Two for each multiplication of a forward pass, of which `RecurrentModel.cost` says what it counts, and twice as many
    backward. What activation checkpointing computes again is not counted.
    """
    return 6 * model.cost(tgt_len)[0]


class Meter:
    """Measures the updates of this rank between two lines of metrics."""

    def __init__(self, model: RecurrentModel, tgt_len: int, precision: Precision, world: World):
        self.device, self.seconds = world.device, dict.fromkeys(PARTS, 0.0)
        on_gpu = self.device.type == "cuda"
        peak = peak_flops(torch.cuda.get_device_name(self.device), precision) if on_gpu else None
        self.mfu_per_rate = training_flops(model, tgt_len) / (peak * world.size) if peak else None

    @contextmanager
    def spent(self, part: str) -> Iterator[None]:
        """Add the host's time inside the `with` block to a part. A GPU may compute on meanwhile."""
        started = time.perf_counter()
        yield
        self.seconds[part] += time.perf_counter() - started

    def read(self, seconds: float, tokens_per_second: float) -> dict[str, float]:
        """The entries of a line of metrics, of the last `seconds`, and start again."""
        line = {f"{part}_share": round(spent / seconds, 4) for part, spent in self.seconds.items()}
        self.seconds = dict.fromkeys(PARTS, 0.0)
        if self.mfu_per_rate is not None:
            line["mfu"] = round(self.mfu_per_rate * tokens_per_second, 4)
        if self.device.type == "cuda":  # the allocator's own count, which the host has
            line["peak_memory_gib"] = round(torch.cuda.max_memory_allocated(self.device) / 2**30, 3)
        return line

"""How the threads of a CPU wait for each other: spinning while the cores are theirs, asleep beside busy neighbours.

libgomp's threads spin at a barrier for some milliseconds before they sleep. That is fastest on a machine that does
nothing else; beside other busy processes they spin while the thread that they wait for does not run, and training falls
to a quarter of its speed (experiments/neighbours.py). libgomp reads once how long to spin, but spins a thousandth of it
while a process has more of its threads than cores: a second team of threads, which sleeps, makes it so until it ends.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from functools import cache
from pathlib import Path

import torch

log = logging.getLogger(__name__)

CHOICES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")  # of the user, which are left alone
PERIOD = 1.0  # seconds between two looks at the neighbours
BUSY = 0.1  # seconds that threads of this process wait for a core, in every second
CALM = 3  # looks without neighbours after which threads spin again


def core_count() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@cache
def share_cores() -> None:
    """From now on, spin while there are no busy neighbours, and sleep while there are. Once a process."""
    chosen = any(name in os.environ for name in CHOICES)
    if not chosen and torch.get_num_threads() > 1 and seconds_without_core() is not None:
        threading.Thread(target=_watch, name="neighbours", daemon=True).start()


def seconds_without_core() -> float | None:
    """How long the threads of this process were ready to run and had no core; None where the system does not say."""
    nanoseconds = []
    for file in Path("/proc/self/task").glob("*/schedstat"):
        try:
            nanoseconds.append(int(file.read_text(encoding="ascii").split()[1]))
        except OSError:  # a thread that has just ended
            continue
    return sum(nanoseconds) / 1e9 if nanoseconds else None


def _watch() -> None:
    crowd, calm = Crowd(), 0
    before, waited_before = time.monotonic(), seconds_without_core() or 0.0
    while True:
        time.sleep(PERIOD)
        now, waited = time.monotonic(), seconds_without_core() or 0.0
        busy = waited - waited_before > BUSY * (now - before)
        before, waited_before = now, waited
        calm = 0 if busy else calm + 1
        if busy:
            crowd.gather()
        elif calm >= CALM:
            crowd.leave()


class Crowd:
    """Idle teams of threads, as many as libgomp needs to count more threads than cores."""

    def __init__(self) -> None:
        self.threads: list[threading.Thread] = []
        self.over = threading.Event()

    def gather(self) -> None:
        if self.threads:
            return
        log.info("Other busy processes use the same cores, which slows this one")
        self.over.clear()
        teams = (core_count() - 1) // (torch.get_num_threads() - 1)
        self.threads = [threading.Thread(target=self._idle, daemon=True) for _ in range(teams)]
        for thread in self.threads:
            thread.start()

    def leave(self) -> None:
        self.over.set()
        for thread in self.threads:
            thread.join()
        self.threads = []

    def _idle(self) -> None:
        torch.zeros(2**18).add_(1)  # large enough for torch to start this thread's team
        self.over.wait()

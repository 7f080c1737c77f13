"""Signals that ask a run to stop: finish the step, save together, leave; on a cluster, have the job start again.

SIGINT is a person at the keyboard, SIGTERM a machine that is going down, SIGUSR2 (submitit's signal) a cluster that
gives the job's place to another or whose time limit is near.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from tbptt.launch.rank_info import find_rank_info
from tbptt.launch.world import World

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)  # a later one outweighs an earlier one
IMPATIENT = 2.0  # seconds: a second Ctrl-C after them is meant; before them, launchers pass the first one on


class Stopped(SystemExit):
    """The run was asked to stop and has saved; the exit code is the shell's for the signal."""

    def __init__(self, signum: int):
        super().__init__(128 + signum)
        self.signum = signum


class StopRequest:
    """The signals that this process received, and what all ranks make of them."""

    def __init__(self, world: World):
        self.world, self.received, self.first_at = world, 0, 0.0

    def agreed(self) -> int:
        """The signal that any rank received, the weightiest; 0 while there is none. Collective, once a step."""
        weight = self.world.highest(self.received)
        return SIGNALS[weight - 1] if weight else 0

    def receive(self, signum: int, frame: FrameType | None = None) -> None:
        now = time.monotonic()
        if signum == signal.SIGINT and self.received and now - self.first_at > IMPATIENT:
            signal.signal(signum, signal.SIG_DFL)
            signal.raise_signal(signum)
        self.first_at = self.first_at or now
        self.received = max(self.received, SIGNALS.index(signal.Signals(signum)) + 1)


@contextmanager
def stop_on_signal(world: World) -> Iterator[StopRequest]:
    """Within it signals are only noted, in the request it yields; the handlers before come back after."""
    request = StopRequest(world)
    before = {signum: signal.signal(signum, request.receive) for signum in SIGNALS}
    try:
        yield request
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def requeue(stopped: Stopped) -> None:
    """In a job of submitit's, let its own handler put the job back into the queue; elsewhere do nothing.

    SIGTERM is handed on only if the job is not being cancelled. submitit's handler ends rank 0; the others end here,
    with 0: SLURM takes any other code for a failure, and might end rank 0 before it has asked for the requeue.
    """
    handler = signal.getsignal(signal.SIGUSR2)
    if find_rank_info().launcher != "submitit" or not callable(handler):
        return
    # Another signal reaches all processes of the job, those started here to speak with SLURM too: they inherit this.
    for signum in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(signum, signal.SIG_IGN)
    if stopped.signum == signal.SIGUSR2 or (stopped.signum == signal.SIGTERM and _slurm_state() == "RUNNING"):
        handler(signal.SIGUSR2, None)
        raise SystemExit(0)


def _slurm_state() -> str:
    """RUNNING, COMPLETING, ... of the SLURM job this process is in; empty in none."""
    job = os.environ.get("SLURM_JOB_ID", "")
    asked = ["squeue", "--noheader", "--format=%T", f"--jobs={job}"]
    return subprocess.run(asked, capture_output=True, text=True).stdout.strip() if job else ""

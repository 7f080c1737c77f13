"""Stop signals: all ranks finish the step, save a checkpoint and exit; on a cluster, the job is requeued.

SIGINT comes from Ctrl-C, SIGTERM from a shutdown or cancellation, SIGUSR2 (submitit's signal) from a cluster that
preempts the job or before its time limit.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from hydra.core.hydra_config import HydraConfig

from tbptt.errors import UserError
from tbptt.launch.world import World

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)  # in ascending priority
STARTED = time.monotonic()  # of this process
EARLY_SECONDS = 120.0  # how much sooner than it was asked a cluster may send a signal, and a process may have started
SIGINT_REPEAT_SECONDS = 2.0  # a SIGINT after this time kills the process; before it, launchers may repeat the first


class Stopped(SystemExit):
    """Raised after a stop signal, when the run has been saved. The exit code is 128 + the signal, as in a shell."""

    def __init__(self, signum: int):
        super().__init__(128 + signum)
        self.signum = signum


class StopRequest:
    """Records the stop signals of this process, and agrees with the other ranks on one of them."""

    def __init__(self, world: World):
        self.world, self.received, self.first_at = world, 0, 0.0

    def agreed_signal(self) -> int:
        """The signal of highest priority that any rank received, or 0. Collective, called once per step."""
        priority = self.world.max(self.received)
        return SIGNALS[priority - 1] if priority else 0

    def receive(self, signum: int, frame: FrameType | None = None) -> None:
        now = time.monotonic()
        if signum == signal.SIGINT and self.received and now - self.first_at > SIGINT_REPEAT_SECONDS:
            signal.signal(signum, signal.SIG_DFL)
            signal.raise_signal(signum)
        self.first_at = self.first_at or now
        self.received = max(self.received, SIGNALS.index(signal.Signals(signum)) + 1)


@contextmanager
def stop_on_signal(world: World) -> Iterator[StopRequest]:
    """Record stop signals in the StopRequest instead of handling them, until the context ends."""
    request = StopRequest(world)
    previous_handlers = {signum: signal.signal(signum, request.receive) for signum in SIGNALS}
    try:
        yield request
    finally:
        for signum, handler in previous_handlers.items():
            signal.signal(signum, handler)


@contextmanager
def not_requeued_at_time_limit(what: str) -> Iterator[None]:
    """Inside, the time limit of a submitit job is an error: after a requeue, `what` would begin anew, again and again.

    A preemption requeues the job.
    """
    requeue_now = _requeue_handler()
    if requeue_now is None:
        yield
        return
    settings: Any = HydraConfig.get().launcher
    limit = 60 * settings.timeout_min - settings.get("signal_delay_s", 0) - EARLY_SECONDS

    def check_time() -> None:
        if time.monotonic() - STARTED >= limit:
            raise UserError(
                f"{what} takes longer than the time limit hydra.launcher.timeout_min={settings.timeout_min}, and would "
                "begin anew after a requeue: set a longer one"
            )

    def receive(signum: int, frame: FrameType | None) -> None:
        check_time()
        requeue_now(signum, frame)

    signal.signal(signal.SIGUSR2, receive)
    try:
        yield
    except Stopped as stopped:
        if stopped.signum == signal.SIGUSR2:
            check_time()
        raise
    finally:
        signal.signal(signal.SIGUSR2, requeue_now)


def requeue(stopped: Stopped) -> None:
    """In a submitit job, requeue the job by submitit's own signal handler; elsewhere do nothing.

    After SIGTERM, the job is requeued only if it is not being cancelled. The handler makes rank 0 exit; the other ranks
    exit here, with code 0: SLURM takes any other code for a failure and might kill rank 0 before it has requeued.
    """
    handler = _requeue_handler()
    if handler is None:
        return
    # Further signals reach all processes of the job, also squeue and scontrol started here, which inherit this setting.
    for signum in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(signum, signal.SIG_IGN)
    if stopped.signum == signal.SIGUSR2 or (stopped.signum == signal.SIGTERM and _slurm_state() == "RUNNING"):
        handler(signal.SIGUSR2, None)
        raise SystemExit(0)


def _requeue_handler() -> Callable[[int, FrameType | None], Any] | None:
    """Submitit's handler of SIGUSR2, if this process is a task of one of its jobs; it requeues the job."""
    handler = signal.getsignal(signal.SIGUSR2)
    is_task = "SUBMITIT_EXECUTOR" in os.environ and "RANK" not in os.environ  # which torchrun sets
    return handler if is_task and callable(handler) else None


def _slurm_state() -> str:
    """The state of the SLURM job of this process: RUNNING, COMPLETING, ...; empty outside of a job."""
    job = os.environ.get("SLURM_JOB_ID", "")
    command = ["squeue", "--noheader", "--format=%T", f"--jobs={job}"]
    return subprocess.run(command, capture_output=True, encoding="utf-8").stdout.strip() if job else ""

"""Ctrl-C and SIGTERM: finish the step, save, leave. A second signal ends the process at once."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """`signum` is the signal that asked the run to stop, None while nobody did."""

    signum: int | None = None

    def receive(self, signum: int, frame: FrameType | None) -> None:
        if self.signum is not None:
            signal.signal(signum, signal.SIG_DFL)
            signal.raise_signal(signum)
        self.signum = signum


@contextmanager
def stop_on_signal() -> Iterator[StopRequest]:
    """Within it, the first signal only sets `signum` of the request it yields; the handlers before come back after."""
    request = StopRequest()
    before = {signum: signal.signal(signum, request.receive) for signum in SIGNALS}
    try:
        yield request
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)

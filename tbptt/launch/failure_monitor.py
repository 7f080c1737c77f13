"""Ends all ranks of a run within seconds after one of them fails.

Every rank has a TCP connection to rank 0. A rank that fails sends the cause; if a rank is killed, the kernel closes its
connection. Rank 0 forwards the first cause to all ranks. A rank that is still running GRACE_SECONDS later, for example
in a collective that cannot complete, exits.

A launcher sends SIGTERM to the ranks that are left. It must not end them before they have reported the cause.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

import torch.distributed as dist

from tbptt.errors import UserError
from tbptt.launch.world import World

CONNECT_TIMEOUT = 60  # seconds for all ranks to connect
GRACE_SECONDS = 10
CAUSE_TIMEOUT = 5  # seconds that a rank whose collective failed waits for the cause from another rank
NOTICE_SECONDS = 1  # after a SIGTERM, in which the failure of another rank becomes known here if it was the reason
CLOSE_MESSAGE = {"closed": True}
EXITED = "exited without reporting an error (killed, or out of memory)"


class RankFailure(UserError):
    """Another rank failed first; the message is its error or traceback. `reports` is true on the rank that shows it."""

    def __init__(self, cause: str, reports: bool = True):
        super().__init__(cause)
        self.reports = reports

    def __reduce__(self) -> tuple[type, tuple[str, bool]]:
        return RankFailure, (str(self), self.reports)


class FailureMonitor:
    """Connects the ranks of `world`. On the reporting rank, `report` is called with the cause before a forced exit."""

    def __init__(self, world: World, address: str, report: Callable[[str], None]):
        self.world, self.report, self.cause = world, report, ""
        self.failed, self.closing = threading.Event(), threading.Event()
        self.lock = threading.Lock()
        self.connections: dict[int, socket.socket] = {}
        self.names = {rank: f"rank {rank} on {host}" for rank, host in enumerate(world.gather(socket.gethostname()))}
        server = socket.create_server(("", 0)) if world.is_main else None
        token = secrets.token_bytes(16)  # which processes of other launches do not know
        port, token = world.broadcast((server.getsockname()[1] if server else 0, token))
        if server:
            self._accept_ranks(server, token)
            server.close()
        else:
            self.connections[0] = socket.create_connection((address, port), timeout=CONNECT_TIMEOUT)
            self.connections[0].sendall(token + world.rank.to_bytes(4))
        for rank, connection in self.connections.items():
            connection.settimeout(None)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            threading.Thread(target=self._listen, args=(rank, connection), daemon=True).start()
        self.handles_sigterm = signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        if self.handles_sigterm:
            signal.signal(signal.SIGTERM, self._exit_unless_failed)

    def _accept_ranks(self, server: socket.socket, token: bytes) -> None:
        deadline = time.monotonic() + CONNECT_TIMEOUT
        while len(self.connections) < self.world.size - 1:
            server.settimeout(max(0.1, deadline - time.monotonic()))
            connection, _ = server.accept()
            connection.settimeout(max(0.1, deadline - time.monotonic()))
            try:
                received = _receive_exactly(connection, len(token) + 4)
            except OSError:
                received = b""
            if received[: len(token)] == token:
                self.connections[int.from_bytes(received[len(token) :])] = connection
            else:
                connection.close()

    @property
    def reports(self) -> bool:
        """Whether this rank shows the cause: rank 0, or rank 1 if rank 0 was killed."""
        return self.world.is_main or (self.world.rank == 1 and self.cause == f"{self.names[0]} {EXITED}")

    def root_cause(self, error: Exception) -> Exception:
        """The error to raise on this rank: the RankFailure of a rank that failed earlier, else `error`.

        In the latter case, `error` is sent to all ranks.
        """
        if _is_collective_error(error):
            self.failed.wait(CAUSE_TIMEOUT)
        is_first = self._set_cause(describe(error, self.names[self.world.rank]))
        return error if is_first else RankFailure(self.cause, self.reports)

    def close(self) -> None:
        """Close in order: the other ranks do not treat the end of the connection as a failure."""
        self.closing.set()
        self._send(CLOSE_MESSAGE)
        if self.handles_sigterm and not self.failed.is_set():
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def _exit_unless_failed(self, signum: int, frame: FrameType | None) -> None:
        """Handle SIGTERM: end as if nothing handled it, except after a failure, which this rank may have to report."""
        deadline = time.monotonic() + NOTICE_SECONDS
        while not self.failed.is_set():  # not wait(): this may have interrupted a wait() that holds its lock
            if time.monotonic() > deadline:
                self._send(CLOSE_MESSAGE)  # the other ranks got the signal too: this is no failure to report
                signal.signal(signum, signal.SIG_DFL)
                signal.raise_signal(signum)
            time.sleep(0.01)

    def _listen(self, rank: int, connection: socket.socket) -> None:
        try:
            with connection.makefile(encoding="utf-8") as lines:
                for line in lines:
                    message = json.loads(line)
                    if "cause" in message:
                        self._set_cause(message["cause"])
                    return
        except (OSError, ValueError):
            pass  # a connection reset is handled like a closed connection
        if not self.closing.is_set():
            self._set_cause(f"{self.names[rank]} {EXITED}")

    def _set_cause(self, cause: str) -> bool:
        """Whether it is the first cause, which is then sent to all ranks."""
        with self.lock:
            if self.cause:
                return False
            self.cause = cause
        self._send({"cause": cause})
        self.failed.set()
        threading.Thread(target=self._exit_after_grace, daemon=True).start()
        return True

    def _exit_after_grace(self) -> None:
        time.sleep(GRACE_SECONDS)
        if self.reports:
            self.report(self.cause)
        os._exit(1)

    def _send(self, message: dict[str, Any]) -> None:
        for connection in self.connections.values():
            with suppress(OSError):  # the other rank may have exited already
                connection.sendall((json.dumps(message) + "\n").encode())


def describe(error: BaseException, rank_name: str = "") -> str:
    """The message of a UserError; any other exception with its traceback and the name of the rank."""
    if isinstance(error, UserError):
        return str(error)
    failed = f"{rank_name} failed:\n" if rank_name else ""
    return failed + "".join(traceback.format_exception(error)).strip()


def _is_collective_error(error: Exception) -> bool:
    """Whether it comes from a failed collective, which is usually caused by the failure of another rank."""
    message = str(error).lower()
    return isinstance(error, dist.DistError) or any(word in message for word in ("gloo", "nccl", "connection"))


def _receive_exactly(connection: socket.socket, size: int) -> bytes:
    received = b""
    while len(received) < size:
        received += connection.recv(size - len(received)) or _raise_disconnected()
    return received


def _raise_disconnected() -> bytes:
    raise ConnectionError("a rank disconnected before it had sent its rank number")

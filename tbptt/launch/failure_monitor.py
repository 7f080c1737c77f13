"""One rank's end is the end of all, within seconds, whatever the others wait for.

Every rank holds a connection to rank 0. A rank that fails says why; one that is killed cannot, but the kernel closes
its connection. Rank 0 tells the others; the first cause is the one that counts. Who is not gone by itself after GRACE
seconds (it may hang in a collective that will never be complete) is ended.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch.distributed as dist

from tbptt.errors import UserError
from tbptt.launch.world import World

CONNECT = 60  # seconds for all to connect
GRACE = 10  # seconds
ECHO = 5  # seconds that a failed collective waits for the news of the rank that made it fail
BYE = {"bye": True}


class RankFailure(UserError):
    """Another rank failed first; the message is its cause, with its traceback. One rank `speaks` for all."""

    def __init__(self, cause: str, speaks: bool = True):
        super().__init__(cause)
        self.speaks = speaks

    def __reduce__(self) -> tuple[type, tuple[str, bool]]:
        return RankFailure, (str(self), self.speaks)


class FailureMonitor:
    """`tell` is called with the cause before this rank is ended, on the rank that speaks for all."""

    def __init__(self, world: World, address: str, tell: Callable[[str], None]):
        self.world, self.tell, self.cause = world, tell, ""
        self.failed, self.closing = threading.Event(), threading.Event()
        self.lock = threading.Lock()
        self.connections: dict[int, socket.socket] = {}
        self.names = {rank: f"rank {rank} on {host}" for rank, host in enumerate(world.gather(socket.gethostname()))}
        server = socket.create_server(("", 0)) if world.is_main else None
        port = world.broadcast(server.getsockname()[1] if server else 0)
        if server:
            server.settimeout(CONNECT)
            for _ in range(world.size - 1):
                connection, _ = server.accept()
                self.connections[int.from_bytes(_exactly(connection, 4))] = connection
            server.close()
        else:
            self.connections[0] = socket.create_connection((address, port), timeout=CONNECT)
            self.connections[0].sendall(world.rank.to_bytes(4))
        for rank, connection in self.connections.items():
            connection.settimeout(None)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            threading.Thread(target=self._listen, args=(rank, connection), daemon=True).start()

    @property
    def speaks(self) -> bool:
        """Rank 0 speaks for all; if it is the one that was killed, rank 1 does."""
        return self.world.is_main or (self.world.rank == 1 and self.cause.startswith(f"{self.names[0]} ended"))

    def explain(self, error: Exception) -> Exception:
        """Tell all ranks of this rank's error, unless another came first: then that is the error to raise here."""
        if _of_a_collective(error):
            self.failed.wait(ECHO)
        if not self.cause:
            self._fail(describe(error, self.names[self.world.rank]))
            return error
        return RankFailure(self.cause, self.speaks)

    def close(self) -> None:
        """The orderly end: nobody takes it for a failure."""
        self.closing.set()
        self._send(BYE)

    def _listen(self, rank: int, connection: socket.socket) -> None:
        try:
            with connection.makefile() as lines:
                for line in lines:
                    message = json.loads(line)
                    if "cause" in message:
                        self._fail(message["cause"])
                    return
        except (OSError, ValueError):
            pass  # a connection that is reset ended like any other
        if not self.closing.is_set():
            self._fail(f"{self.names[rank]} ended without a word: killed, or out of memory")

    def _fail(self, cause: str) -> None:
        with self.lock:
            if self.cause:
                return
            self.cause = cause
        self._send({"cause": cause})
        self.failed.set()
        threading.Thread(target=self._end, daemon=True).start()

    def _end(self) -> None:
        time.sleep(GRACE)
        if self.speaks:
            self.tell(self.cause)
        os._exit(1)

    def _send(self, message: dict[str, Any]) -> None:
        for connection in self.connections.values():
            with suppress(OSError):  # it may be gone already
                connection.sendall((json.dumps(message) + "\n").encode())


def describe(error: BaseException, who: str = "") -> str:
    """A mistake of the user in its sentence, anything else with its traceback and with who failed."""
    if isinstance(error, UserError):
        return str(error)
    failed = f"{who} failed:\n" if who else ""
    return failed + "".join(traceback.format_exception(error)).strip()


def _of_a_collective(error: Exception) -> bool:
    """Whether it says no more than that another rank did not answer."""
    words = str(error).lower()
    return isinstance(error, dist.DistError) or any(word in words for word in ("gloo", "nccl", "connection"))


def _exactly(connection: socket.socket, size: int) -> bytes:
    received = b""
    while len(received) < size:
        received += connection.recv(size - len(received)) or _gone()
    return received


def _gone() -> bytes:
    raise ConnectionError("a rank was gone before it had said its number")

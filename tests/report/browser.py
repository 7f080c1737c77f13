"""A page in headless Chromium, driven by its own protocol (CDP) through two pipes."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
OPTIONS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-pipe"]
PROBLEMS = "Runtime.exceptionThrown", "Log.entryAdded"  # events


class Page:
    """A tab. `problems` are the errors and warnings of its console, `requests` the addresses it asked for."""

    def __init__(self, reading: int, writing: int):
        self.reading, self.writing = os.fdopen(reading, "rb"), os.fdopen(writing, "wb", buffering=0)
        self.sent, self.session, self.problems, self.requests = 0, None, [], []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **parameters) -> dict:
        self.sent += 1
        message = {"id": self.sent, "method": method, "params": parameters}
        message |= {"sessionId": self.session} if self.session else {}
        self.writing.write(json.dumps(message).encode() + b"\0")
        return self._receive(lambda answer: answer.get("id") == self.sent)["result"]

    def open(self, path: Path, width: int, scheme: str = "light", height: int = 900) -> None:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.send("Emulation.setDeviceMetricsOverride", **metrics)
        self.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.problems, self.requests = [], []
        self.send("Page.navigate", url=path.absolute().as_uri())
        self._receive(lambda event: event.get("method") == "Page.loadEventFired")

    def value(self, expression: str):
        """What the expression is in the page, after its script has run and the page has been laid out."""
        waited = f"new Promise(f => requestAnimationFrame(() => requestAnimationFrame(() => f({expression}))))"
        result = self.send("Runtime.evaluate", expression=waited, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def _receive(self, wanted) -> dict:
        while True:
            message = json.loads(self._message())
            if message.get("method") in PROBLEMS:
                self.problems.append(message["params"])
            if message.get("method") == "Network.requestWillBeSent":
                self.requests.append(message["params"]["request"]["url"])
            assert "error" not in message, message
            if wanted(message):
                return message

    def _message(self) -> bytes:
        read = bytearray()
        while (byte := self.reading.read(1)) != b"\0":
            assert byte, "Chromium has ended"
            read += byte
        return bytes(read)


@contextmanager
def chromium(profile: Path) -> Iterator[Page]:
    """A new tab of a browser of its own, with an empty profile in this folder."""
    (their_reading, writing), (reading, their_writing) = os.pipe(), os.pipe()
    handed = f"exec {CHROMIUM} {' '.join(OPTIONS)} --user-data-dir={profile} 3<&{their_reading} 4>&{their_writing}"
    process = subprocess.Popen(
        ["bash", "-c", handed], pass_fds=(their_reading, their_writing), stderr=subprocess.DEVNULL
    )
    os.close(their_reading)
    os.close(their_writing)
    try:
        page = Page(reading, writing)
        yield page
        page.writing.close()
        page.reading.close()
    finally:
        process.terminate()
        process.wait()

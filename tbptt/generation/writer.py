"""Writes a continuation to its file while it is generated, and optionally to the screen."""

from __future__ import annotations

import sys
from pathlib import Path

from tbptt.files import write_all
from tbptt.generation.text import Decoder


class ContinuationWriter:
    """Writes the prompt, then every token passed to `add`. With `echo`, prints them too. Call `close` at the end."""

    def __init__(self, path: Path, prompt: str, decoder: Decoder, echo: bool):
        self.path, self.prompt, self.decoder, self.echo = path, prompt, decoder, echo
        self.tokens, self.log_prob = 0, 0.0
        self.file = open(path, "wb", buffering=0)  # noqa: SIM115 (open until `close`)
        write_all(self.file, prompt, "hydra.run.dir")
        if echo:
            show(f"\033[1m{printable(prompt)}\033[0m" if sys.stdout.isatty() else printable(prompt))

    def add(self, token: int, log_prob: float) -> None:
        self.tokens += 1
        self.log_prob += log_prob
        self._write(self.decoder.add(token))

    def close(self) -> None:
        self._write(self.decoder.end())
        self.file.close()
        if self.echo:
            show("\n")

    def continuation(self) -> str:
        return self.path.read_bytes().decode().removeprefix(self.prompt)

    def _write(self, text: str) -> None:
        write_all(self.file, text, "hydra.run.dir")
        if text and self.echo:
            show(printable(text))


def show(text: str) -> None:
    print(text, end="", flush=True)


def printable(text: str) -> str:
    """Replace characters that the terminal would interpret as control codes or whose encoding it lacks."""
    replaced = "".join("\ufffd" if c not in "\n\t" and (c < " " or "\x7f" <= c < "\xa0") else c for c in text)
    return replaced.encode(sys.stdout.encoding, "replace").decode(sys.stdout.encoding)

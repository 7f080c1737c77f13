"""One continuation in the making: in its file and, if it is the one to watch, on the screen."""

from __future__ import annotations

import sys
from pathlib import Path

from tbptt.generation.text import Decoder


class ContinuationWriter:
    """The prompt and what follows it. `add` a token and its log-probability; `close` at the end."""

    def __init__(self, path: Path, prompt: str, words: Decoder, shown: bool):
        self.path, self.prompt, self.words, self.shown = path, prompt, words, shown
        self.tokens, self.log_prob = 0, 0.0
        self.file = open(path, "w", 1, encoding="utf-8", newline="")  # noqa: SIM115 (open until `close`)
        self.file.write(prompt)
        if shown:
            show(f"\033[1m{printable(prompt)}\033[0m" if sys.stdout.isatty() else printable(prompt))

    def add(self, token: int, log_prob: float) -> None:
        self.tokens += 1
        self.log_prob += log_prob
        self._write(self.words.add(token))

    def close(self) -> None:
        self._write(self.words.end())
        self.file.close()
        if self.shown:
            show("\n")

    def continuation(self) -> str:
        return self.path.read_bytes().decode().removeprefix(self.prompt)

    def _write(self, text: str) -> None:
        self.file.write(text)
        if text and self.shown:
            show(printable(text))


def show(text: str) -> None:
    print(text, end="", flush=True)


def printable(text: str) -> str:
    """What can be shown of a text: a model of bytes may write a terminal's commands, or what its encoding lacks."""
    harmless = "".join("\ufffd" if c not in "\n\t" and (c < " " or "\x7f" <= c < "\xa0") else c for c in text)
    return harmless.encode(sys.stdout.encoding, "replace").decode(sys.stdout.encoding)

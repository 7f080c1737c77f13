"""What a person watching a run sees: a bar on a terminal, plain lines everywhere else."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from tbptt.data.config import Level
from tbptt.launch.rank_info import find_rank_info

log = logging.getLogger(__name__)


class Progress:
    """`advance` after each step, `show` for a line of metrics. On a terminal the bar carries the newest numbers."""

    def __init__(self, total: int, done: int, what: str, level: Level):
        self.what, self.level, self.total = what, level, total
        self.terminal = sys.stderr.isatty() and find_rank_info().rank == 0
        self.told = time.monotonic()
        hidden = not self.terminal
        self.bar = tqdm(total=total, initial=done, desc=what, unit="step", disable=hidden, dynamic_ncols=True)

    def advance(self) -> None:
        self.bar.update()

    def reach(self, done: int, total: int) -> None:
        """Stand at `done` of `total`; off a terminal, say so every quarter of a minute."""
        self.bar.total = total
        self.bar.update(done - self.bar.n)
        if not self.terminal and time.monotonic() - self.told > 15:
            self.told = time.monotonic()
            log.info("%s: %s of %s segments", self.what, f"{done:,}", f"{total:,}")

    def show(self, record: dict[str, Any], seconds_left: float | None = None) -> None:
        numbers = _in_words(record, self.level)
        if "split" in record:
            log.info("step %s: %s %s", f"{record['step']:,}", record["split"], numbers)
        elif self.terminal:
            self.bar.set_postfix_str(numbers)
        else:
            left = "" if seconds_left is None else f", {_duration(seconds_left)} left"
            log.info("step %s of %s: %s%s", f"{record['step']:,}", f"{self.total:,}", numbers, left)


@contextmanager
def progress(total: int, done: int, what: str, level: Level) -> Iterator[Progress]:
    shown = Progress(total, done, what, level)
    with logging_redirect_tqdm() if shown.terminal else nullcontext():
        try:
            yield shown
        finally:
            shown.bar.close()


def _in_words(record: dict[str, Any], level: Level) -> str:
    words = [f"loss {record['loss']:.3f}"]
    words.append(f"ppl {record['ppl']:.2f}" if "bpc" not in record else f"{record['bpc']:.3f} bits/{level.name}")
    words.append(f"{record['tokens_per_second']:,.0f} tokens/s")
    return ", ".join(words)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"

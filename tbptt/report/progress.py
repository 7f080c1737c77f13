"""Progress display: a tqdm bar on a terminal, log lines elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from tbptt.data.config import Level
from tbptt.launch.rank_info import find_rank_info

log = logging.getLogger(__name__)
LARGE = 1 << 28  # bytes that take seconds to read


def announce_reading(path: Path) -> None:
    """Print that a large file, or a folder of such, is read: before logging is configured."""
    files = path.glob("*") if path.is_dir() else [path]
    if sum(file.stat().st_size for file in files if file.is_file()) >= LARGE:
        print(f"Reading {path}", flush=True)


class Progress:
    """Call `advance` after each step and `show` for each metrics record; a terminal shows the newest one."""

    def __init__(self, total: int, done: int, label: str, level: Level):
        self.label, self.level, self.total = label, level, total
        self.terminal = sys.stderr.isatty() and find_rank_info().rank == 0
        self.logged_at = time.monotonic()
        hidden = not self.terminal
        self.bar = tqdm(total=total, initial=done, desc=label, unit="step", disable=hidden, dynamic_ncols=True)

    def advance(self) -> None:
        self.bar.update()

    def update_to(self, done: int, total: int) -> None:
        """Show `done` of `total` segments; without a terminal, log it every 15 seconds."""
        self.bar.total = total
        self.bar.update(done - self.bar.n)
        if not self.terminal and time.monotonic() - self.logged_at > 15:
            self.logged_at = time.monotonic()
            log.info("%s: %s of %s segments", self.label, f"{done:,}", f"{total:,}")

    def show(self, record: dict[str, Any], seconds_left: float | None = None) -> None:
        numbers = _format_record(record, self.level)
        if "split" in record:
            log.info("step %s: %s %s", f"{record['step']:,}", record["split"], numbers)
        elif self.terminal:
            self.bar.set_postfix_str(numbers)
        else:
            left = "" if seconds_left is None else f", {_duration(seconds_left)} left"
            log.info("step %s of %s: %s%s", f"{record['step']:,}", f"{self.total:,}", numbers, left)


@contextmanager
def progress(total: int, done: int, label: str, level: Level) -> Iterator[Progress]:
    display = Progress(total, done, label, level)
    with logging_redirect_tqdm() if display.terminal else nullcontext():
        try:
            yield display
        finally:
            display.bar.close()


def _format_record(record: dict[str, Any], level: Level) -> str:
    parts = [f"loss {record['loss']:.3f}"]
    parts.append(f"ppl {record['ppl']:.2f}" if "bpc" not in record else f"{record['bpc']:.3f} bits/{level.name}")
    parts.append(f"{record['tokens_per_second']:,.0f} tokens/s")
    return ", ".join(parts)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"

"""What every logger of a run does, and all those of a run as one."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from threading import Thread
from typing import Any, Protocol

from tbptt.report.config import LoggerConfig

log = logging.getLogger(__name__)
FIGURES = ("curves.png", "positions.png", "sweep.png", "sweep_positions.png")
TABLES = ("results.json", "sweep.csv")


class Logger(Protocol):
    def write(self, record: dict[str, Any]) -> None:
        """Write a line of metrics: numbers by name, with their `step`; `split` if they are not of training updates."""

    def picture(self, name: str, path: Path, step: int) -> None:
        """Show a PNG."""

    def text(self, name: str, text: str, step: int) -> None:
        """Show plain text."""

    def close(self) -> None:
        """Write what is still held back. Nothing is logged after it."""


class Loggers:
    """Several loggers as one. Without any: for ranks that log nothing."""

    def __init__(self, loggers: Sequence[Logger] = ()):
        self.loggers = loggers

    def write(self, record: dict[str, Any]) -> None:
        for logger in self.loggers:
            logger.write(record)

    def picture(self, name: str, path: Path, step: int) -> None:
        for logger in self.loggers:
            logger.picture(name, path, step)

    def text(self, name: str, text: str, step: int) -> None:
        for logger in self.loggers:
            logger.text(name, text, step)

    def close(self, seconds: float | None = None) -> None:
        """Close all. One that waits for a network is waited for no longer than so many seconds, if they are given."""
        for logger in self.loggers:
            if seconds is None:
                logger.close()
                continue
            closing = Future[None]()
            Thread(target=_close, args=(logger, closing), daemon=True).start()
            try:
                closing.result(seconds)
            except TimeoutError:
                log.warning("%s is not closed after %s seconds: it is not waited for", type(logger).__name__, seconds)


def _close(logger: Logger, closing: Future[None]) -> None:
    try:
        logger.close()
        closing.set_result(None)
    except BaseException as error:
        closing.set_exception(error)


def open_loggers(config: LoggerConfig, run_dir: Path, step: int, run_config: dict[str, Any]) -> list[Logger]:
    """The loggers beside metrics.jsonl, of a run that starts, or continues, after `step`.

    `run_config` is the whole configuration, which they show.
    """
    loggers: list[Logger] = []
    if config.wandb:
        from tbptt.report.wandb_run import WandbRun

        loggers.append(WandbRun(config, run_dir, step, run_config))
    if config.tensorboard:
        from tbptt.report.tensorboard import TensorBoardWriter

        loggers.append(TensorBoardWriter(run_dir, step, run_config))
    return loggers


def log_results(config: LoggerConfig, folder: Path, run_config: dict[str, Any], step: int = 0) -> None:
    """Open the loggers of what is not a training, to show its results."""
    loggers = Loggers(open_loggers(config, folder, 0, run_config))
    show_results(loggers, folder, step)
    loggers.close()


def show_results(logger: Logger, folder: Path, step: int) -> None:
    """Show the figures and texts that a task or a sweep has left in its folder."""
    for path in filter(Path.is_file, (folder / name for name in FIGURES)):
        logger.picture(path.stem, path, step)
    for path in filter(Path.is_file, (*(folder / name for name in TABLES), *sorted(folder.glob("generated/*.txt")))):
        name = f"generated/{path.stem}" if path.parent != folder else path.stem
        logger.text(name, path.read_text(encoding="utf-8", errors="replace"), step)

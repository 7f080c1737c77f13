"""The training loop: update, log, validate, save, until the last step or until somebody asks to stop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from tbptt.data.config import Level
from tbptt.evaluation.score import Score
from tbptt.evaluation.units import loss_units
from tbptt.launch.stopping import StopRequest
from tbptt.report.metrics import Metrics, NoMetrics
from tbptt.report.progress import Progress
from tbptt.training.checkpoints import Checkpoints
from tbptt.training.trainer import Trainer, Update


@dataclass
class Record:
    """What the loop itself must remember between steps, and a checkpoint between runs."""

    loss_sum: float = 0.0  # over the updates since the last line of metrics
    updates: int = 0
    best_loss: float = math.inf  # of all validations
    best_step: int = 0
    seconds: float = 0.0  # spent in updates, from the first step on

    def add(self, updates: list[Update]) -> None:
        """Wait for their losses, and empty the list."""
        for update in updates:  # one by one, so that no rounding depends on when they are added
            self.loss_sum += update.loss
        self.updates += len(updates)
        updates.clear()


def fit(
    trainer: Trainer,
    record: Record,
    validate: Callable[[], Score],
    checkpoints: Checkpoints,
    checkpoint_info: dict[str, Any],
    metrics: Metrics | NoMetrics,
    shown: Progress,
    level: Level,
    stop: StopRequest,
) -> int:
    """Train until `trainer.config.max_steps`, or until a signal asks to stop; either way the last step is saved.

    Returns the signal, 0 without one. Every rank runs this loop; metrics and checkpoints are written by rank 0.

    A step's order never changes (update, log, validate, save), so that a run continued from any checkpoint writes the
    lines and the weights of a run that was never interrupted.
    """
    config, signum = trainer.config, 0
    logged_at, logged_tokens = record.seconds, trainer.tokens
    unread: list[Update] = []  # the device may still be computing the newest
    while trainer.step < config.max_steps and not signum:
        started = time.perf_counter()
        update = trainer.update()
        unread.append(update)
        step, is_last = trainer.step, trainer.step == config.max_steps
        log_now = is_last or step % config.log_every == 0
        if log_now:
            record.add(unread)
        record.seconds += time.perf_counter() - started
        shown.advance()

        where: dict[str, Any] = {"step": step, "epoch": (step - 1) // len(trainer.lanes), "tokens": trainer.tokens}
        if log_now:
            rate = (trainer.tokens - logged_tokens) / (record.seconds - logged_at)
            line = where | loss_units(record.loss_sum / record.updates, level)
            line |= {"lr": update.lr, "grad_norm": update.grad_norm, "tokens_per_second": round(rate, 1)}
            metrics.write(line)
            shown.show(line, seconds_left=(config.max_steps - step) * record.seconds / step)
            logged_at, logged_tokens = record.seconds, trainer.tokens
            record.loss_sum, record.updates = 0.0, 0

        improved = False
        if is_last or step % config.eval_every == 0:
            valid = validate()
            trainer.schedule.observe(valid.loss)
            rate = round(valid.tokens / valid.seconds, 1)
            line = where | {"split": "valid"} | loss_units(valid.loss, level) | {"tokens_per_second": rate}
            metrics.write(line)
            shown.show(line)
            if improved := valid.loss < record.best_loss:
                record.best_loss, record.best_step = valid.loss, step

        signum = stop.agreed()
        if is_last or improved or signum or step % config.save_every == 0:
            record.add(unread)
            training = {"trainer": trainer.state_dict(), "record": asdict(record)}
            if trainer.world.is_main:
                checkpoints.save(step, trainer.model, training, checkpoint_info, best=improved)
    return signum

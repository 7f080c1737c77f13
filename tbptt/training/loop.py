"""The training loop: update, log, validate and save, until the last step or a stop signal."""

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
from tbptt.report.logger import Logger
from tbptt.report.progress import Progress
from tbptt.training.checkpoints import Checkpoints
from tbptt.training.trainer import Trainer, Update


@dataclass
class LoopState:
    """The loop's own counters, saved in checkpoints under the key `record`."""

    loss_sum: float = 0.0  # of the updates since the last line of metrics
    updates: int = 0  # since the last line of metrics
    best_loss: float = math.inf  # lowest validation loss
    best_step: int = 0
    seconds: float = 0.0  # spent in updates since step `first_step`
    first_step: int = 0  # not 0 where a run goes on from the steps of another
    validation: dict[str, Any] | None = None  # the settings of the validations that `best_loss` is the lowest of

    def validated_with(self, settings: dict[str, Any]) -> bool:
        """Forget the best loss if it is of other settings: losses of both cannot be compared. Whether it was so."""
        changed = self.validation not in (None, settings) and math.isfinite(self.best_loss)
        if changed:
            self.best_loss, self.best_step = math.inf, 0
        self.validation = settings
        return changed

    def add(self, updates: list[Update]) -> None:
        """Wait for the losses of `updates`, add them, and empty the list."""
        for update in updates:  # one by one, so that the rounding does not depend on how often `add` is called
            self.loss_sum += update.loss
        self.updates += len(updates)
        updates.clear()


def fit(
    trainer: Trainer,
    loop_state: LoopState,
    validate: Callable[[], Score],
    checkpoints: Checkpoints,
    checkpoint_info: dict[str, Any],
    logger: Logger,
    progress: Progress,
    level: Level,
    stop: StopRequest,
) -> int:
    """Train until `trainer.config.max_steps` or a stop signal, and save the last step.

    Returns the number of the signal, or 0. Every rank runs this loop; rank 0 logs and writes checkpoints.

    The order within a step is fixed (update, log, validate, save), so that a run continued from any checkpoint gives
    the metrics and weights of an uninterrupted run.
    """
    config, signum = trainer.config, 0
    logged_at, logged_tokens = loop_state.seconds, trainer.tokens
    pending: list[Update] = []  # not yet added to `loop_state`: the device may still be computing the newest
    while trainer.step < config.max_steps and not signum:
        started = time.perf_counter()
        update = trainer.update()
        pending.append(update)
        step, is_last = trainer.step, trainer.step == config.max_steps
        log_now = is_last or step % config.log_every == 0
        if log_now:
            with trainer.meter.spent("wait"):
                loop_state.add(pending)
        loop_state.seconds += time.perf_counter() - started
        progress.advance()

        epoch = (step - 1) // trainer.updates_per_epoch
        position: dict[str, Any] = {"step": step, "epoch": epoch, "tokens": trainer.tokens}
        if log_now:
            seconds = loop_state.seconds - logged_at
            rate = (trainer.tokens - logged_tokens) / seconds
            line = position | loss_units(loop_state.loss_sum / loop_state.updates, level)
            line |= {"lr": update.lr, "grad_norm": update.grad_norm, "tokens_per_second": round(rate, 1)}
            line |= trainer.meter.read(seconds, rate)
            logger.write(line)
            per_update = loop_state.seconds / (step - loop_state.first_step)
            progress.show(line, seconds_left=(config.max_steps - step) * per_update)
            logged_at, logged_tokens = loop_state.seconds, trainer.tokens
            loop_state.loss_sum, loop_state.updates = 0.0, 0

        improved = False
        if is_last or step % config.eval_every == 0:
            valid = validate()
            trainer.schedule.observe(valid.loss)
            rate = round(valid.tokens / valid.seconds, 1)
            line = position | {"split": "valid"} | loss_units(valid.loss, level) | {"tokens_per_second": rate}
            logger.write(line)
            progress.show(line)
            if improved := valid.loss < loop_state.best_loss:
                loop_state.best_loss, loop_state.best_step = valid.loss, step

        signum = stop.agreed_signal()
        if is_last or improved or signum or step % config.save_every == 0:
            loop_state.add(pending)
            training = {"trainer": trainer.state_dict(), "record": asdict(loop_state)}
            if trainer.world.is_main:
                checkpoints.save(step, trainer.model, training, checkpoint_info, best=improved)
    return signum or stop.agreed_signal()  # one that came while the last step was saved

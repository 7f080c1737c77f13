"""`task=train`: trains a model, in one or several starts, and scores the weights of the best validation."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from tbptt.cli.config import Config, as_dict
from tbptt.cli.directories import only_process
from tbptt.data.config import Order
from tbptt.data.document_lanes import DocumentLanes
from tbptt.data.lanes import Lanes
from tbptt.data.language import save_language
from tbptt.data.prepare import open_corpus
from tbptt.device import autocast, parameter_dtype
from tbptt.errors import UserError
from tbptt.evaluation.score import Score, score
from tbptt.launch.stopping import Stopped, not_requeued_at_time_limit, stop_on_signal
from tbptt.launch.world import World
from tbptt.models.compilation import compile_blocks
from tbptt.report.curves import draw_curves
from tbptt.report.logger import Loggers, open_loggers, show_results
from tbptt.report.members import shown_name
from tbptt.report.metrics import METRICS, MetricsFile, read_metrics
from tbptt.report.progress import progress
from tbptt.report.results import RESULTS, begin, read_results, write_results
from tbptt.tasks.loading import on_every_rank
from tbptt.tasks.scoring import remind, score_split
from tbptt.tasks.train_run import Run, identity
from tbptt.tasks.train_settings import check, questionable_settings, unused_settings
from tbptt.training.checkpoints import Checkpoint, Checkpoints, find_checkpoint
from tbptt.training.config import Reduce
from tbptt.training.loop import LoopState, fit
from tbptt.training.trainer import Trainer

log = logging.getLogger(__name__)

# How long a run waits for its loggers:
STOP_SECONDS = 20.0  # when it was told to stop, because a cluster kills it soon
END_SECONDS = 1200.0  # at its end, where other ranks wait for rank 0 (COLLECTIVE_TIMEOUT)

__all__ = ["check", "run", "unused_settings"]


def run(config: Config, run_dir: Path, world: World) -> None:
    """Train, or continue from the newest checkpoint in the run directory; then score the best weights."""
    for sentence in questionable_settings(config):
        log.warning("%s", sentence)
    with only_process(run_dir) if world.is_main else nullcontext():
        _train(config, run_dir, world)


def _train(config: Config, run_dir: Path, world: World) -> None:
    with not_requeued_at_time_limit("the start of this training, in which its corpus is prepared,"):
        begun = _begin(config, run_dir, world)
    if begun is None:
        return
    run, trainer, loop_state = begun
    first_step, logger = trainer.step, _loggers(run, trainer.step)
    signum = _fit(run, trainer, loop_state, logger)
    if signum:
        logger.close(STOP_SECONDS)
        log.info("Stopped after step %s and saved; run the same command to continue", f"{trainer.step:,}")
        raise Stopped(signum)
    nothing_trained = trainer.step == first_step
    with not_requeued_at_time_limit("the evaluation after training") if nothing_trained else nullcontext():
        results = _score_best(run, trainer, loop_state)
    if world.is_main:
        _report(run, results)
        show_results(logger, run_dir, trainer.step)
    logger.close(END_SECONDS)  # after the results are written: wandb may wait for the network


def _begin(config: Config, run_dir: Path, world: World) -> tuple[Run, Trainer, LoopState] | None:
    """Everything before the first update. None if the run is finished."""
    checkpoints = Checkpoints(run_dir / "checkpoints", config.trainer.keep)
    newest = on_every_rank(world, checkpoints.newest_to_continue)
    if not newest:
        begin(run_dir, world.is_main)
    corpus = open_corpus(config.data)
    run = Run(config, run_dir, world, corpus, checkpoints, identity(config, corpus))
    if newest:
        newest.check_same_run(run.identity)
        if _is_finished(run):
            return None
        begin(run_dir, world.is_main)
    trainer = _build_trainer(run)
    loop_state = _resume(run, newest, trainer) if newest else _start(run, trainer)
    if world.is_main:
        save_language(corpus, run_dir)
        checkpoints.rewind(newest, loop_state.best_step)
    _describe(run, trainer)
    return run, trainer, loop_state


def _is_finished(run: Run) -> bool:
    """Whether the run has been trained and scored; if so, log it."""
    steps = run.world.broadcast(read_results(run.folder).get("train", {}).get("steps", 0))
    if steps < run.config.trainer.max_steps:
        return False
    log.info("This run is finished: %s", run.folder / RESULTS)
    remind(run.folder)
    log.info("To train again, delete %s, or choose another seed= or hydra.run.dir=", run.folder)
    return True


def _build_trainer(run: Run) -> Trainer:
    """A trainer with a newly initialised model, lanes, optimizer and schedule."""
    config, corpus, world = run.config, run.corpus, run.world
    log.info("Building the model")
    torch.manual_seed(config.seed)
    model = config.model.build(len(corpus.vocabulary), config.trainer.activation_checkpointing)
    model.to(world.device, parameter_dtype(config.trainer.precision))
    if config.trainer.compile:
        compile_blocks(model)
    shuffle_seed = config.seed if config.data.order is Order.shuffled else None
    sizes = config.data.batch_size, config.model.tgt_len, shuffle_seed
    lanes: Lanes | DocumentLanes
    if corpus.documents:
        lanes = DocumentLanes(corpus.splits["train"], corpus.documents["train"], *sizes)
    else:
        lanes = Lanes.cut(corpus.splits["train"], *sizes)
    if config.trainer.window > len(lanes):
        log.warning(
            "trainer.window=%s is more than the %s segments of an epoch: every update is an epoch, all of whose "
            "activations are kept in memory",
            config.trainer.window,
            len(lanes),
        )
    optimizer = config.optimizer.build(model)
    schedule = config.scheduler.build(config.optimizer.lr, config.trainer.max_steps)
    if world.size == 1 and config.trainer.reduce is Reduce.bf16:
        log.warning("trainer.reduce=bf16 has no effect with a single process, which sends no gradients")
    return Trainer(model, lanes, optimizer, schedule, config.trainer, world)


def _resume(run: Run, newest: Checkpoint, trainer: Trainer) -> LoopState:
    """Load the newest checkpoint of this run into the trainer."""
    newest.load_weights(trainer.model)
    run.model_type = newest.model_type
    saved = newest.training_state()
    trainer.load_state_dict(saved["trainer"])
    log.info("Continuing from step %s of %s", f"{trainer.step:,}", run.folder)
    loop_state = LoopState(**saved["record"])
    if trainer.step < run.config.trainer.max_steps and loop_state.validated_with(_validation(run.config)):
        log.warning("Validations have other settings than before: the best loss of before does not count any more")
    if run.config.checkpoint:
        log.warning("checkpoint=%s has no effect: this run continues from its own checkpoints", run.config.checkpoint)
    return loop_state


def _start(run: Run, trainer: Trainer) -> LoopState:
    """Start at step 0 from the initial weights, or from the checkpoint of another run."""
    config = run.config
    if config.checkpoint:
        name = config.checkpoint
        start = on_every_rank(run.world, lambda: find_checkpoint(name))
        assert start is not None
        start.check_vocabulary(run.corpus.identity())
        start.load_weights(trainer.model, run.identity["model"])
        run.model_type = start.model_type
        if config.optimizer.from_checkpoint:
            trainer.load_optimizer(start.optimizer_state(config.optimizer.name))
            if trainer.step >= config.trainer.max_steps:
                raise UserError(
                    f"optimizer.from_checkpoint=true continues at step {trainer.step} of {config.checkpoint}: "
                    f"trainer.max_steps={config.trainer.max_steps} must be larger"
                )
        log.info("Starting from the weights of %s, at step %s", start.folder, f"{trainer.step:,}")
    return LoopState(first_step=trainer.step, validation=_validation(config))


def _validation(config: Config) -> dict[str, Any]:
    """The settings that a validation loss depends on."""
    used = ("tgt_len", "reset_state", "piece_len") + (() if config.eval.exact else ("burn_in", "batch_size"))
    settings = {key: as_dict(config.eval)[key] for key in used}
    return settings | config.eval.context() | {"tokens": config.trainer.eval_tokens}


def _describe(run: Run, trainer: Trainer) -> None:
    """Log the sizes of model and data, and the notes of the model."""
    world, lanes = run.world, trainer.batch_size
    params = sum(parameter.numel() for parameter in trainer.model.parameters())
    tokens = lanes * trainer.lanes.length
    ranks = f"{world.size} processes, this one on " if world.size > 1 else ""
    sizes = f"{params:,} parameters, {tokens:,} training tokens in {lanes} lanes"
    if "train" in run.corpus.documents:
        sizes += f", {len(run.corpus.documents['train']):,} documents"
    log.info("%s, on %s%s", sizes, ranks, world.device)
    with autocast(world.device, run.config.trainer.precision):
        for note in trainer.model.notes():
            log.info("%s", note)


def _loggers(run: Run, step: int) -> Loggers:
    """metrics.jsonl and what else logger= names, continued after `step`; on other ranks than 0, none."""
    if not run.world.is_main:
        return Loggers()
    others = open_loggers(run.config.logger, run.folder, step, as_dict(run.config))  # before metrics.jsonl is rewound
    return Loggers([MetricsFile(run.folder, step), *others])


def _fit(run: Run, trainer: Trainer, loop_state: LoopState, logger: Loggers) -> int:
    """Train to the last step or a stop signal. Returns the signal, or 0."""
    config, world = run.config, run.world
    valid_config = replace(config.eval, max_tokens=config.trainer.eval_tokens, save_losses=None, by_position=False)
    stream, starts_D = run.corpus.splits["valid"], run.starts("valid")

    def validate() -> Score:
        tgt_len, precision = config.model.tgt_len, config.trainer.precision
        return score(trainer.model, stream, valid_config, tgt_len, precision, world=world, starts_D=starts_D)

    info, level = run.checkpoint_info(), run.level
    log.info("Training; the losses of every %s steps follow", f"{config.trainer.log_every:,}")
    with stop_on_signal(world) as stop, progress(config.trainer.max_steps, trainer.step, "train", level) as bar:
        return fit(trainer, loop_state, validate, run.checkpoints, info, logger, bar, level, stop)


def _score_best(run: Run, trainer: Trainer, loop_state: LoopState) -> dict[str, Any]:
    """The results of the weights with the best validation loss, and statistics of the training."""
    best = on_every_rank(run.world, run.checkpoints.best)
    assert best is not None
    best.load_weights(trainer.model)
    trained = {
        "steps": trainer.step,
        "tokens": trainer.tokens,
        "seconds": round(loop_state.seconds, 1),
        "tokens_per_second": round(trainer.tokens / loop_state.seconds, 1),
        "best_step": loop_state.best_step,
        "best_valid_loss": loop_state.best_loss,
    }
    starts_D, tgt_len = run.starts(run.config.eval.split.name), run.config.model.tgt_len
    scored = score_split(run.config, tgt_len, trainer.model, run.corpus, run.folder, run.world, starts_D)
    return scored | {"train": trained}


def _report(run: Run, results: dict[str, Any]) -> None:
    curves, metrics = run.folder / "curves.png", run.folder / METRICS
    write_results(results, run.folder)
    if draw_curves(read_metrics(metrics), run.level, curves, shown_name(run.folder)):
        log.info("Learning curve: %s", curves)
    log.info("Metrics: %s", metrics)
    log.info("Checkpoints: %s", run.checkpoints.folder)

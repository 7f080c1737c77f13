"""`task=train`: from a corpus to the best weights and their score, in one go or in as many as it takes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from tbptt.config import Config, as_dict
from tbptt.data.lanes import Lanes
from tbptt.data.language import keep_language
from tbptt.data.prepare import PreparedCorpus, open_corpus
from tbptt.device import parameter_dtype
from tbptt.errors import UserError
from tbptt.evaluation.score import Score, score
from tbptt.evaluation.task import score_split
from tbptt.launch.stopping import Stopped, stop_on_signal
from tbptt.launch.world import World
from tbptt.models.compilation import compile_blocks
from tbptt.report.curves import draw_curves
from tbptt.report.metrics import METRICS, Metrics, NoMetrics, read_metrics
from tbptt.report.progress import progress
from tbptt.report.results import RESULTS, read_results, write_results
from tbptt.training.checkpoints import Checkpoint, Checkpoints, find_checkpoint
from tbptt.training.config import Reduce
from tbptt.training.loop import Record, fit
from tbptt.training.trainer import Trainer

log = logging.getLogger(__name__)


def train(config: Config, run_dir: Path, world: World) -> None:
    """Train, or continue where the run directory's last checkpoint left off; then score the best weights."""
    try:
        with FileLock(run_dir / "run.lock", timeout=0) if world.is_main else nullcontext():
            _train(config, run_dir, world)
    except Timeout:
        raise UserError(
            f"another process is training in {run_dir}: wait for it, or choose another hydra.run.dir"
        ) from None


def _train(config: Config, run_dir: Path, world: World) -> None:
    corpus = open_corpus(config.data)
    identity = _identity(config, corpus)
    checkpoints = Checkpoints(run_dir / "checkpoints", config.trainer.keep)
    newest = _of_main(world, checkpoints.newest)
    if newest:
        newest.refuse_other(identity)
        if world.broadcast(read_results(run_dir).get("train", {}).get("steps", 0)) >= config.trainer.max_steps:
            log.info("This run is finished: %s", run_dir / RESULTS)
            log.info("To train afresh, delete %s, or choose another seed= or hydra.run.dir=", run_dir)
            return
    if world.is_main:
        keep_language(corpus, run_dir)
    level = corpus.vocabulary.level
    torch.manual_seed(config.seed)
    model = config.model.build(len(corpus.vocabulary), config.trainer.activation_checkpointing)
    model.to(world.device, parameter_dtype(config.trainer.precision))
    if config.trainer.compile:
        compile_blocks(model)
    lanes = Lanes.cut(corpus.splits["train"], config.data.batch_size, config.model.tgt_len)
    optimizer = config.optimizer.build(model.parameters())
    schedule = config.scheduler.build(config.optimizer.lr, config.trainer.max_steps)
    if world.size == 1 and config.trainer.reduce is Reduce.bf16:
        log.warning("trainer.reduce=bf16 has no effect: there is one process, which sends no gradients")
    trainer, record = Trainer(model, lanes, optimizer, schedule, config.trainer, world), Record()

    if newest:
        newest.load_weights(model)
        saved = newest.training_state()
        trainer.load_state_dict(saved["trainer"])
        record = Record(**saved["record"])
        log.info("Continuing from step %s of %s", f"{trainer.step:,}", run_dir)
        if config.checkpoint:
            log.warning("checkpoint=%s has no effect: this run has checkpoints of its own", config.checkpoint)
    elif config.checkpoint:
        start = find_checkpoint(config.checkpoint)
        start.refuse_other_vocabulary(corpus.identity())
        start.load_weights(model)
        if config.optimizer.from_checkpoint:
            trainer.take_optimizer(start.optimizer_state(config.optimizer.name))
            if trainer.step >= config.trainer.max_steps:
                raise UserError(
                    f"optimizer.from_checkpoint=true goes on at step {trainer.step} of {config.checkpoint}: "
                    f"trainer.max_steps={config.trainer.max_steps} must be more"
                )
        log.info("Starting from the weights of %s, at step %s", start.folder, f"{trainer.step:,}")
    if world.is_main:
        checkpoints.rewind(newest, record.best_step)

    params = sum(parameter.numel() for parameter in model.parameters())
    tokens, places = f"{lanes.tokens_BL.size:,}", f"{world.size} processes, this one on " if world.size > 1 else ""
    log.info(
        "%s parameters, %s training tokens in %d lanes, on %s%s",
        f"{params:,}", tokens, lanes.batch_size, places, world.device,
    )  # fmt: skip
    for note in model.notes():
        log.info("%s", note)
    metrics = Metrics(run_dir, trainer.step, config.logger, as_dict(config)) if world.is_main else NoMetrics()
    valid_config = replace(config.eval, max_tokens=config.trainer.eval_tokens, save_losses=None)

    def validate() -> Score:
        tgt_len, precision = config.model.tgt_len, config.trainer.precision
        return score(model, corpus.splits["valid"], valid_config, tgt_len, precision, world=world)

    info = {"identity": identity, "config": as_dict(config)}
    if config.data.path is not None:  # to be found from any directory
        info["config"]["data"]["path"] = str(Path(config.data.path).expanduser().resolve())
    with stop_on_signal(world) as stop, progress(config.trainer.max_steps, trainer.step, "train", level) as shown:
        signum = fit(trainer, record, validate, checkpoints, info, metrics, shown, level, stop)
    if signum:
        metrics.close()
        log.info("Stopped after step %s and saved; the same command continues", f"{trainer.step:,}")
        raise Stopped(signum)

    best = _of_main(world, checkpoints.best)
    assert best is not None
    best.load_weights(model)
    trained = {
        "steps": trainer.step,
        "tokens": trainer.tokens,
        "seconds": round(record.seconds, 1),
        "tokens_per_second": round(trainer.tokens / record.seconds, 1),
        "best_step": record.best_step,
        "best_valid_loss": record.best_loss,
    }
    results = score_split(config, config.model.tgt_len, model, corpus, run_dir, world) | {"train": trained}
    metrics.close()
    if not world.is_main:
        return
    draw_curves(read_metrics(run_dir / METRICS), level, run_dir / "curves.png", run_dir.name)
    write_results(results, run_dir)
    log.info("Learning curve: %s", run_dir / "curves.png")
    log.info("Metrics: %s", run_dir / METRICS)
    log.info("Checkpoints: %s", checkpoints.folder)


def _of_main(world: World, find: Callable[[], Checkpoint | None]) -> Checkpoint | None:
    """The checkpoint that rank 0 finds, by the name of its folder: a link may look older from another machine."""
    found = find() if world.is_main else None
    folder = world.broadcast(found and found.folder.resolve())
    return found or (Checkpoint.open(folder) if folder else None)


def _identity(config: Config, corpus: PreparedCorpus) -> dict[str, dict[str, Any]]:
    """What must not change while a run goes on. Steps and the schedule of bookkeeping may: a run can be made longer."""
    trainer = {key: as_dict(config.trainer)[key] for key in ("precision", "clip", "reset_state", "reduce")}
    return {
        "model": {key: value for key, value in as_dict(config.model).items() if key not in config.model.NOT_NUMBERS},
        "data": {"batch_size": config.data.batch_size} | corpus.identity(),
        "optimizer": as_dict(config.optimizer),
        "scheduler": as_dict(config.scheduler),
        "trainer": trainer,
        "run": {"seed": config.seed},
    }

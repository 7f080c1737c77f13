"""`task=eval`: scores a split with the weights of a checkpoint."""

from __future__ import annotations

import hashlib
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
from hydra.core.hydra_config import HydraConfig

from tbptt.cli.config import Config, as_dict
from tbptt.cli.devices import runs_in_parallel
from tbptt.cli.directories import without_neutral, words_of
from tbptt.data.prepare import PreparedCorpus
from tbptt.device import Precision, autocast
from tbptt.errors import UserError
from tbptt.evaluation.config import BurnIn, EvalConfig
from tbptt.evaluation.dynamic import score_dynamically
from tbptt.evaluation.dynamic_config import RMSDynamicConfig
from tbptt.evaluation.units import loss_units, original_units
from tbptt.launch.stopping import not_requeued_at_time_limit
from tbptt.launch.world import World
from tbptt.report.logger import log_results
from tbptt.report.positions import POSITIONS
from tbptt.report.progress import progress
from tbptt.report.results import RESULTS, begin, read_results, refuse_training_run, write_results
from tbptt.tasks.loading import (
    TrainedModel,
    check_trained,
    corpus_to_score,
    data_to_score,
    open_trained,
    require_checkpoint,
)
from tbptt.tasks.scoring import (
    check_losses_file,
    documents_that_reset,
    losses_file,
    remind,
    score_split,
    unused_by_pieces,
)

log = logging.getLogger(__name__)


def check(config: Config) -> None:
    require_checkpoint(config)
    config.logger.check()
    dynamic = config.eval.dynamic
    if dynamic.enabled and config.trainer.precision is Precision.fp16:
        raise UserError(
            "eval/dynamic does not support trainer.precision=fp16, which needs loss scaling: use bf16 or fp32"
        )
    if dynamic.enabled and config.eval.piece_len is not None:
        raise UserError(
            f"eval.piece_len={config.eval.piece_len} cannot be combined with eval/dynamic, whose weights adapt to the "
            "whole text before a target: the pieces would depend on each other"
        )
    if config.data.is_one_text and isinstance(dynamic, RMSDynamicConfig):
        raise UserError(
            f"eval/dynamic=rms needs gradients of training text, but data.path={config.data.path} is one text: use "
            "eval/dynamic=sgd"
        )
    check_losses_file(config)
    checkpoint = check_trained(config)
    if not config.data.is_one_text and HydraConfig.initialized():
        data_to_score(config, checkpoint, words_of(HydraConfig.get().overrides.task))


def unused_settings(config: Config) -> dict[str, str]:
    unused = dict.fromkeys(("optimizer", "scheduler"), "nothing is trained")
    unused["model"] = "the model is the checkpoint's; set its context with eval.mem_len, eval.clamp_len, ..."
    if not runs_in_parallel(config):
        unused["trainer.devices"] = "it runs sequentially, on one device"
    unused |= dict.fromkeys(("data.batch_size", "trainer.micro_batch"), "the number of lanes is eval.batch_size")
    unused["trainer.reset_state"] = "an evaluation resets the state as the run did, or by eval.reset_state"
    unused["data.order"] = "an evaluation reads the text in order"
    if config.data.is_one_text:
        reading = ("data.level", "data.lower", "data.min_count", "data.max_vocab", "data.vocabulary", "eval.split")
        unused |= dict.fromkeys(reading, "data.path is one text, read completely and with the vocabulary of the run")
    return unused | unused_by_pieces(config) | {"seed": "nothing is random in an evaluation"}


def run(config: Config, run_dir: Path, world: World) -> None:
    """Score a split with the weights of a checkpoint, under the settings of the `eval` group."""
    with not_requeued_at_time_limit("this evaluation"):
        _evaluate(config, run_dir, world)


def _evaluate(config: Config, run_dir: Path, world: World) -> None:
    refuse_training_run(run_dir)
    overrides = words_of(HydraConfig.get().overrides.task)
    log.info("Loading %s", config.checkpoint)
    trained = open_trained(config, overrides, world)
    corpus = corpus_to_score(config, trained.checkpoint, overrides)
    starts_D = documents_that_reset(config, corpus, config.eval.split.name, trained.reset_state)
    if starts_D is not None:
        if config.eval.burn_in is BurnIn.none and config.eval.piece_len is None:
            log.warning("eval.burn_in=none has no effect: documents start empty, and lanes consist of whole documents")
        trained.config.check_documents(config.eval.context())
    inputs = _inputs(config, trained, corpus) | ({"reset_state": "document"} if starts_D is not None else {})
    losses = losses_file(config, run_dir)
    files = [losses] if losses else []
    files += [run_dir / POSITIONS] if config.eval.by_position else []
    already_scored = read_results(run_dir).get("scored") == inputs and all(map(Path.is_file, files))
    if world.broadcast(already_scored):
        log.info("Already scored: %s; delete it to score again", run_dir / RESULTS)
        remind(run_dir)
        return
    begin(run_dir, world.is_main)
    log.info("Evaluating %s (step %s)", trained.checkpoint.folder, f"{trained.checkpoint.info['step']:,}")
    with autocast(world.device, config.trainer.precision):
        for note in trained.model.notes():
            log.info("%s", note)
    results = score_split(config, trained.config.tgt_len, trained.model, corpus, run_dir, world, starts_D)
    if config.eval.dynamic.enabled:
        results |= _score_dynamically(config, trained, corpus, starts_D)
    if world.is_main:
        write_results(results | {"scored": inputs}, run_dir)
        log_results(config.logger, run_dir, as_dict(config), trained.checkpoint.info["step"])


def _inputs(config: Config, trained: TrainedModel, corpus: PreparedCorpus) -> dict[str, Any]:
    """All that the results depend on: an evaluation with the same inputs is not repeated."""
    rms = isinstance(config.eval.dynamic, RMSDynamicConfig)  # it takes gradients of training text
    return ({"train": corpus.meta["splits"]["train"]["sha256"]} if rms else {}) | {
        "checkpoint": trained.checkpoint.identifier(),
        "precision": config.trainer.precision.name,
        "text": hashlib.sha256(corpus.splits[config.eval.split.name].data).hexdigest(),
        "eval": without_neutral(EvalConfig, as_dict(config.eval)),
    }


def _score_dynamically(
    config: Config, trained: TrainedModel, corpus: PreparedCorpus, starts_D: np.ndarray | None
) -> dict[str, Any]:
    """Score the split by dynamic evaluation. The keys of the results start with dynamic_."""
    split, level, precision = config.eval.split.name, corpus.vocabulary.level, config.trainer.precision
    log.info("Dynamic evaluation, in one lane")
    if isinstance(config.eval.dynamic, RMSDynamicConfig):
        log.info("First, gradient statistics of %s training tokens", f"{config.eval.dynamic.statistics_tokens:,}")
    streams, tgt_len = (corpus.splits[split], corpus.splits.get("train")), trained.config.tgt_len
    starts = starts_D, None if starts_D is None else corpus.documents.get("train")
    with progress(1, 0, "dynamic", level) as bar:
        scored = score_dynamically(trained.model, *streams, config.eval, tgt_len, precision, bar.update_to, starts)
    units = loss_units(scored.loss, level)
    units |= original_units(scored.loss, scored.tokens, level, corpus.meta["splits"][split])
    log.info("Dynamic loss (base 2): %.4f, Perplexity: %.2f", scored.loss / math.log(2), units["ppl"])
    units |= {"seconds": round(scored.seconds, 3)}
    settings = as_dict(config.eval.dynamic) | scored.settings
    return {"dynamic": settings} | {f"dynamic_{key}": value for key, value in units.items()}

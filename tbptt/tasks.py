"""What `python run.py task=...` does, from the composed configuration to results.json."""

from __future__ import annotations

import json
import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from tbptt.config import Config, Task, as_dict, from_dict, typed
from tbptt.data.config import DataConfig, Level
from tbptt.data.lanes import Lanes
from tbptt.data.prepare import PreparedCorpus, open_corpus
from tbptt.device import parameter_dtype, pick_device
from tbptt.door import settings_without_effect
from tbptt.errors import UserError
from tbptt.evaluation.score import Score, report_lines, score
from tbptt.models import CONFIGS as MODELS
from tbptt.models import RecurrentModel
from tbptt.report.compressors import compressed_bits_per_byte
from tbptt.report.curves import draw_curves
from tbptt.report.metrics import Metrics, read_metrics
from tbptt.report.progress import progress
from tbptt.training.checkpoints import Checkpoints, find_checkpoint
from tbptt.training.interrupt import stop_on_signal
from tbptt.training.loop import Record, fit
from tbptt.training.trainer import Trainer

log = logging.getLogger(__name__)


def run(composed: DictConfig) -> None:
    """Do the task in Hydra's output directory. What fails is kept in its error.txt, for the table of a sweep."""
    run_dir = Path(HydraConfig.get().runtime.output_dir)
    try:
        config = typed(composed)
        config.check()
        for warning in settings_without_effect(config, list(HydraConfig.get().overrides.task)):
            log.warning("%s", warning)
        {Task.train: train, Task.eval: evaluate, Task.prepare: prepare}[config.task](config, run_dir)
    except Exception as error:
        (run_dir / "error.txt").write_text(f"{error}\n")
        raise


def prepare(config: Config, run_dir: Path) -> None:
    """Download and prepare a corpus ahead of time, on a login node say, and tell what it holds."""
    corpus = open_corpus(config.data)
    log.info("%s: %s entries in the vocabulary", corpus.meta["title"], f"{len(corpus.vocabulary):,}")
    for split, counts in corpus.meta["splits"].items():
        unknown = f"{counts['unknown']:,} unknown ({counts['unknown'] / counts['tokens']:.2%})"
        log.info(
            "%s: %s tokens, %s, from %s bytes", split, f"{counts['tokens']:,}", unknown, f"{counts['source_bytes']:,}"
        )
    log.info("Token files: %s", corpus.folder)


def train(config: Config, run_dir: Path) -> None:
    """Train, or continue where the run directory's last checkpoint left off; then score the best weights."""
    try:
        with FileLock(run_dir / "run.lock", timeout=0):
            _train(config, run_dir)
    except Timeout:
        raise UserError(
            f"another process is training in {run_dir}: wait for it, or choose another hydra.run.dir"
        ) from None


def _train(config: Config, run_dir: Path) -> None:
    device = pick_device(config.trainer.device)
    corpus = open_corpus(config.data)
    identity = _identity(config, corpus)
    checkpoints = Checkpoints(run_dir / "checkpoints", config.trainer.keep)
    newest = checkpoints.newest()
    if newest:
        newest.refuse_other(identity)
        if _steps_reported(run_dir) >= config.trainer.max_steps:
            log.info("This run is finished: %s", run_dir / "results.json")
            log.info("To train afresh, delete %s, or choose another seed= or hydra.run.dir=", run_dir)
            return
    level = corpus.vocabulary.level
    torch.manual_seed(config.seed)
    model = config.model.build(len(corpus.vocabulary), config.trainer.activation_checkpointing)
    model.to(device, parameter_dtype(config.trainer.precision))
    lanes = Lanes.cut(corpus.splits["train"], config.data.batch_size, config.model.tgt_len)
    optimizer = config.optimizer.build(model.parameters())
    schedule = config.scheduler.build(config.optimizer.lr, config.trainer.max_steps)
    trainer, record = Trainer(model, lanes, optimizer, schedule, config.trainer, device), Record()

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
        log.info("Starting from the weights of %s", start.folder)
    checkpoints.rewind(newest, record.best_step)

    params = sum(parameter.numel() for parameter in model.parameters())
    tokens = f"{lanes.tokens_BL.size:,}"
    log.info("%s parameters, %s training tokens in %d lanes, on %s", f"{params:,}", tokens, lanes.batch_size, device)
    metrics = Metrics(run_dir, trainer.step, config.logger, as_dict(config))
    valid_config = replace(config.eval, max_tokens=config.trainer.eval_tokens)

    def validate() -> Score:
        return score(model, corpus.splits["valid"], valid_config, config.model.tgt_len, config.trainer.precision)

    info = {"identity": identity, "config": as_dict(config)}
    if config.data.path is not None:  # to be found from any directory
        info["config"]["data"]["path"] = str(Path(config.data.path).expanduser().resolve())
    with stop_on_signal() as stop, progress(config.trainer.max_steps, trainer.step, "train", level) as shown:
        fit(trainer, record, validate, checkpoints, info, metrics, shown, level, stop)
    if stop.signum:
        metrics.close()
        log.info("Stopped after step %s and saved; the same command continues", f"{trainer.step:,}")
        raise SystemExit(128 + stop.signum)

    best = checkpoints.best()
    best.load_weights(model)
    trained = {
        "steps": trainer.step,
        "tokens": trainer.tokens,
        "seconds": round(record.seconds, 1),
        "tokens_per_second": round(trainer.tokens / record.seconds, 1),
        "best_step": record.best_step,
        "best_valid_loss": record.best_loss,
    }
    results = _score(config, config.model.tgt_len, model, corpus) | {"train": trained}
    metrics.close()
    draw_curves(read_metrics(metrics.path), level, run_dir / "curves.png", run_dir.name)
    _write_results(results, run_dir)
    log.info("Learning curve: %s", run_dir / "curves.png")
    log.info("Metrics: %s", metrics.path)
    log.info("Checkpoints: %s", checkpoints.folder)


def _identity(config: Config, corpus: PreparedCorpus) -> dict[str, dict[str, Any]]:
    """What must not change while a run goes on. Steps and the schedule of bookkeeping may: a run can be made longer."""
    precision, trainer = config.trainer.precision.name, config.trainer
    return {
        "model": as_dict(config.model),
        "data": {"batch_size": config.data.batch_size} | corpus.identity(),
        "optimizer": as_dict(config.optimizer),
        "scheduler": as_dict(config.scheduler),
        "trainer": {"precision": precision, "clip": trainer.clip, "reset_state": trainer.reset_state.name},
        "run": {"seed": config.seed},
    }


def _steps_reported(run_dir: Path) -> int:
    """The steps of a finished training run's results.json; 0 without one."""
    try:
        return json.loads((run_dir / "results.json").read_text())["train"]["steps"]
    except (OSError, ValueError, KeyError):
        return 0


def evaluate(config: Config, run_dir: Path) -> None:
    """Score a split with the weights of a checkpoint, under the settings of the `eval` group."""
    assert config.checkpoint is not None
    if (run_dir / "checkpoints").exists():
        raise UserError(f"{run_dir} is a training run's: choose another hydra.run.dir for the evaluation")
    for word in HydraConfig.get().overrides.task:
        if word.startswith(("model=", "experiment=")):
            raise UserError(
                f"{word} would change how checkpoint={config.checkpoint} is evaluated, not what: leave it out, and "
                "choose eval=wt103_base and the like, or eval.mem_len and the like"
            )
    (run_dir / "results.json").unlink(missing_ok=True)
    checkpoint = find_checkpoint(config.checkpoint)
    trained = checkpoint.info["config"]
    model_config = from_dict(MODELS[trained["model"]["name"]], trained["model"])
    model_config.check_eval(config.eval.context())
    model_config.check_precision(config.trainer.precision, pick_device(config.trainer.device))
    corpus = open_corpus(_eval_data(config, trained["data"]))
    checkpoint.refuse_other_vocabulary(corpus.identity())
    model = model_config.build(len(corpus.vocabulary))
    checkpoint.load_weights(model)
    model.to(pick_device(config.trainer.device), parameter_dtype(config.trainer.precision))
    log.info("Evaluating %s (step %s)", checkpoint.folder, f"{checkpoint.info['step']:,}")
    _write_results(_score(config, model_config.tgt_len, model, corpus), run_dir)


def _eval_data(config: Config, trained: dict[str, Any]) -> DataConfig:
    """The corpus of the checkpoint, unless the command line names another or changes where it is."""
    overrides = [text.lstrip("+") for text in HydraConfig.get().overrides.task]
    overrides = [text for text in overrides if text.startswith(("data=", "data."))]
    if any(text.startswith("data=") for text in overrides):
        return config.data
    changes = OmegaConf.from_dotlist([text.removeprefix("data.") for text in overrides])
    return from_dict(DataConfig, trained | dict(changes))


def _score(config: Config, tgt_len: int, model: RecurrentModel, corpus: PreparedCorpus) -> dict[str, Any]:
    """Score config.eval.split and print what there is to say about it."""
    split, level = config.eval.split, corpus.vocabulary.level
    stream = corpus.splits[split.name]
    log.info("Scoring the %s split", split.name)
    with progress(1, 0, split.name, level) as shown:
        scored = score(model, stream, config.eval, tgt_len, config.trainer.precision, shown.reach)
    params = sum(parameter.numel() for parameter in model.parameters())
    for line in report_lines(params, scored):
        log.info("%s", line)
    results = {
        "task": config.task.name,
        "split": split.name,
        "level": level.name,
        **scored.as_dict(level),
        "params": params,
    }
    if level is Level.byte:
        peers = compressed_bits_per_byte(stream[: scored.tokens + 1].tobytes())
        theirs = ", ".join(f"{name} makes {bits:.3f}" for name, bits in peers.items())
        log.info("%.3f bits per byte; of the same bytes %s", results["bpc"], theirs)
        results["compressors"] = peers
    return results


def _write_results(results: dict[str, Any], run_dir: Path) -> None:
    new = run_dir / "results.new"
    new.write_text(json.dumps(results, indent=1) + "\n")
    os.replace(new, run_dir / "results.json")
    (run_dir / "error.txt").unlink(missing_ok=True)
    log.info("Results: %s", run_dir / "results.json")

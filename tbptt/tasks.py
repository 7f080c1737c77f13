"""What `python run.py task=...` does: which task is whose."""

from __future__ import annotations

import logging
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from tbptt.config import Config, Task
from tbptt.data.prepare import open_corpus
from tbptt.door import settings_without_effect
from tbptt.evaluation.task import evaluate
from tbptt.generation.task import generate
from tbptt.interop.exporting import export_model
from tbptt.interop.importing import import_model
from tbptt.launch.run import run_in_world
from tbptt.launch.world import World
from tbptt.training.task import train

log = logging.getLogger(__name__)


def run(composed: DictConfig) -> None:
    """Do the task in Hydra's output directory, in as many processes as there are GPUs, or as were asked for."""
    run_in_world(composed, run, _perform)


def _perform(config: Config, run_dir: Path, world: World) -> None:
    for warning in settings_without_effect(config, list(HydraConfig.get().overrides.task)):
        log.warning("%s", warning)
    TASKS[config.task](config, run_dir, world)


def prepare(config: Config, run_dir: Path, world: World) -> None:
    """Download and prepare a corpus ahead of time, on a login node say, and tell what it holds."""
    corpus = open_corpus(config.data)
    log.info("%s: %s entries in the vocabulary", corpus.meta["title"], f"{len(corpus.vocabulary):,}")
    for split, counts in corpus.meta["splits"].items():
        unknown = f"{counts['unknown']:,} unknown ({counts['unknown'] / counts['tokens']:.2%})"
        log.info(
            "%s: %s tokens, %s, from %s bytes", split, f"{counts['tokens']:,}", unknown, f"{counts['source_bytes']:,}"
        )
    log.info("Token files: %s", corpus.folder)


TASKS = {
    Task.train: train,
    Task.eval: evaluate,
    Task.generate: generate,
    Task.prepare: prepare,
    Task["import"]: import_model,
    Task.export: export_model,
}

"""A training run: its configuration, corpus and checkpoints, and the settings that must not change while it lasts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tbptt.cli.config import Config, as_dict
from tbptt.cli.directories import without_neutral
from tbptt.data.config import Level
from tbptt.data.prepare import PreparedCorpus
from tbptt.launch.world import World
from tbptt.tasks.scoring import documents_that_reset
from tbptt.training.checkpoint import INFO, Checkpoint, DamagedCheckpoint
from tbptt.training.checkpoints import LAST, Checkpoints


@dataclass
class Run:
    """What the functions of a training run share."""

    config: Config
    folder: Path
    world: World
    corpus: PreparedCorpus
    checkpoints: Checkpoints
    identity: dict[str, dict[str, Any]]  # settings that must not change during the run
    model_type: str | None = None  # of the directory that the weights were imported from, if they were

    @property
    def level(self) -> Level:
        return self.corpus.vocabulary.level

    def starts(self, split: str) -> np.ndarray | None:
        """The first tokens of the documents of `split` where an evaluation resets the state, if it does."""
        return documents_that_reset(self.config, self.corpus, split, self.config.trainer.reset_state.name)

    def checkpoint_info(self) -> dict[str, Any]:
        """The content of checkpoint.json, except the step."""
        config = as_dict(self.config)
        typed = {key: config["data"][key] for key in ("path", "vocabulary") if config["data"][key] is not None}
        # An absolute path is valid from any directory; on another machine, the path that was typed may be.
        config["data"] |= {key: str(Path(path).expanduser().resolve()) for key, path in typed.items()}
        imported = {"imported": {"model_type": self.model_type}} if self.model_type else {}
        return {"identity": self.identity, "config": config, "typed": typed} | imported


def check_same_settings(config: Config, run_dir: Path) -> None:
    """UserError if the run in this directory has other settings. What it was trained on is not compared yet."""
    try:
        folder = Checkpoints(run_dir / "checkpoints").find(LAST)
        newest = Checkpoint.open(folder, verify=[INFO]) if folder else None
    except DamagedCheckpoint:
        return  # the one before it may be whole
    if newest:
        same_corpus = newest.info["identity"]["data"] | settings_of_run(config)["data"]
        newest.check_same_run(settings_of_run(config) | {"data": same_corpus})


def identity(config: Config, corpus: PreparedCorpus) -> dict[str, dict[str, Any]]:
    """The settings that must not change during a run, and its corpus."""
    settings = settings_of_run(config)
    return settings | {"data": settings["data"] | corpus.identity()}


def settings_of_run(config: Config) -> dict[str, dict[str, Any]]:
    """The settings that must not change during a run. max_steps and logging may change: a run can be extended."""
    trainer = {key: as_dict(config.trainer)[key] for key in ("precision", "clip", "window", "reset_state", "reduce")}
    return {
        "model": without_neutral(type(config.model), as_dict(config.model)),
        "data": {"batch_size": config.data.batch_size, "order": config.data.order.name},
        "optimizer": as_dict(config.optimizer),
        "scheduler": as_dict(config.scheduler),
        "trainer": trainer,
        "run": {"seed": config.seed},
    }

"""The whole configuration: one dataclass schema per group, owned by its component, put together here.

`python run.py` composes it from conf/ (Hydra); `typed` turns the result into plain dataclasses.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf

from tbptt import models
from tbptt.data.acquire import look
from tbptt.data.config import DataConfig
from tbptt.data.corpora import corpus_named
from tbptt.device import pick_device
from tbptt.errors import UserError
from tbptt.evaluation.config import EvalConfig
from tbptt.models import ModelConfig
from tbptt.report import config as loggers
from tbptt.report.config import LoggerConfig
from tbptt.training import optimizers, schedules
from tbptt.training.checkpoints import locate_checkpoint
from tbptt.training.config import TrainerConfig
from tbptt.training.optimizers import OptimizerConfig
from tbptt.training.schedules import SchedulerConfig


class Task(Enum):
    train = "train"
    eval = "eval"
    prepare = "prepare"


@dataclass
class Config:
    task: Task = Task.train
    seed: int = 1
    checkpoint: str | None = None  # what to evaluate; with task=train, the weights to start from
    data: DataConfig = MISSING
    model: ModelConfig = MISSING
    optimizer: OptimizerConfig = MISSING
    scheduler: SchedulerConfig = MISSING
    trainer: TrainerConfig = MISSING
    eval: EvalConfig = MISSING
    logger: LoggerConfig = MISSING

    def check(self) -> None:
        """Raise UserError for what cannot work, as far as it is known before any data is read."""
        self.eval.check()
        for group in ("model", "optimizer", "scheduler", "logger"):
            chosen = getattr(self, group)
            if chosen.name != type(chosen).name:
                raise UserError(f"{group}.name={chosen.name} is not how to choose: type {group}={chosen.name}")
        if not 0 <= self.seed < 2**63:
            raise UserError(f"seed={self.seed} must be at least 0 and below 2^63")
        device = pick_device(self.trainer.device)
        if self.checkpoint is not None:
            locate_checkpoint(self.checkpoint)
        elif self.task is Task.eval:
            raise UserError("task=eval needs checkpoint=RUN, the run directory (or checkpoint) to evaluate")
        if self.task is Task.eval:
            return  # model and data are those of the checkpoint
        corpus = corpus_named(self.data.name)
        self.data.check()
        corpus.check(self.data)
        look(corpus, self.data)
        if self.task is Task.prepare:
            return
        self.model.check(corpus.vocab_size(self.data))
        self.model.check_eval(self.eval.context())
        self.optimizer.check()
        self.scheduler.check()
        self.trainer.check(self.data.batch_size)
        self.model.check_precision(self.trainer.precision, device)


def typed(composed: DictConfig) -> Config:
    """The dataclasses that a composed configuration stands for. UserError for keys they do not have (+key=value)."""
    _refuse_added_keys(composed, "")
    config = OmegaConf.to_object(composed)
    assert isinstance(config, Config)
    return config


def _refuse_added_keys(node: DictConfig, where: str) -> None:
    schema: Any = OmegaConf.get_type(node)
    known = [field.name for field in fields(schema)]
    for key in map(str, node):
        if key not in known:
            raise UserError(f"unknown key {where}{key}: there are {', '.join(known)}")
        if not OmegaConf.is_missing(node, key) and isinstance(node[key], DictConfig):
            _refuse_added_keys(node[key], f"{where}{key}.")


def as_dict(config: Any) -> dict[str, Any]:
    """A configuration dataclass as plain JSON values."""
    plain = OmegaConf.to_container(OmegaConf.structured(config), resolve=True, enum_to_str=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


T = TypeVar("T")


def from_dict(schema: type[T], values: Mapping[str, Any] | DictConfig) -> T:
    """The inverse of `as_dict`."""
    config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), values))
    assert isinstance(config, schema)
    return config


def register() -> None:
    """Make the schemas and the resolvers known to Hydra; conf/ refers to them by name."""
    store = ConfigStore.instance()
    store.store(name="schema", node=Config)
    groups: dict[str, Mapping[str, type]] = {
        "model": models.CONFIGS,
        "optimizer": optimizers.CONFIGS,
        "scheduler": schedules.CONFIGS,
        "logger": loggers.CONFIGS,
        "data": {"data": DataConfig},
        "trainer": {"trainer": TrainerConfig},
        "eval": {"eval": EvalConfig},
    }
    for group, schemas in groups.items():
        for name, schema in schemas.items():
            store.store(group=f"schema/{group}", name=name, node=schema, package=group)
    OmegaConf.register_new_resolver("run_dir", run_dir, replace=True)
    # Cached: Hydra hands the value on from the sweep to its jobs, whose own overrides differ.
    OmegaConf.register_new_resolver("sweep_dir", sweep_dir, replace=True, use_cache=True)


_CHECKPOINT = re.compile("best|last|checkpoints|step_.*")  # parts of a checkpoint's path that do not name its run


def run_dir(*, _root_: DictConfig) -> str:
    """runs/CORPUS-MODEL-HASH, the hash over all that defines the numbers: the same command finds the same run."""
    numbers = _numbers(_root_)
    if _root_.task is Task.eval:
        run = next(
            (part for part in reversed(Path(str(_root_.checkpoint)).parts) if not _CHECKPOINT.fullmatch(part)), ""
        )
        numbers = {key: numbers[key] for key in ("checkpoint", "eval", "data")}
        return f"runs/eval-{run}-{_short_hash([numbers, _root_.trainer.precision.name])}"
    if _root_.task is Task.prepare:
        return f"runs/prepare-{_root_.data.name}-{_short_hash(numbers['data'])}"
    return f"runs/{_root_.data.name}-{_root_.hydra.runtime.choices.model}-{_short_hash(numbers)}"


def sweep_dir(overrides: list[str]) -> str:
    """runs/sweep-HASH, the hash over the sweep's command line: the same sweep finds the same directory."""
    return f"runs/sweep-{_short_hash(list(overrides))}"


def _numbers(root: DictConfig) -> dict[str, Any]:
    """The part of a composed configuration that losses and weights depend on."""
    chosen = {}
    for field in fields(Config):
        if field.name not in ("task", "logger"):
            node = root[field.name]
            if isinstance(node, DictConfig):
                ignored = getattr(OmegaConf.get_type(node), "NOT_NUMBERS", ())
                kept = OmegaConf.masked_copy(node, [str(key) for key in node if key not in ignored])
                chosen[field.name] = OmegaConf.to_container(kept, resolve=True, enum_to_str=True)
            else:
                chosen[field.name] = node
    return chosen


def _short_hash(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]

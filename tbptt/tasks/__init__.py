"""The tasks of `python run.py task=...`: one module per task, and what all tasks share."""

from __future__ import annotations

import logging
from dataclasses import fields
from operator import attrgetter
from pathlib import Path
from typing import Any, Protocol

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from tbptt.cli.config import Config, Task, typed
from tbptt.cli.devices import process_count
from tbptt.cli.directories import check_writable, words_of
from tbptt.cli.errors import exit_on_user_errors
from tbptt.cli.processes import run_in_world
from tbptt.cli.search import check_sweeper
from tbptt.device import Precision, cpu_has_bf16, pick_device
from tbptt.errors import UserError, denied_files_reported, full_disk_reported
from tbptt.launch.rank_info import find_rank_info
from tbptt.launch.world import World
from tbptt.models.compilation import check_compiler
from tbptt.report.results import ERROR, objective, refuse_training_run
from tbptt.tasks import evaluate, export_model, generate, import_model, prepare, train
from tbptt.tasks.train_run import check_same_settings
from tbptt.training.checkpoints import locate_checkpoint
from tbptt.training.config import TrainerConfig

log = logging.getLogger(__name__)


class TaskModule(Protocol):
    """The functions that the module of a task defines."""

    def check(self, config: Config) -> None:
        """Raise UserError for invalid settings, as far as they can be detected before the run directory is created."""

    def run(self, config: Config, run_dir: Path, world: World) -> None:
        """Run the task on this rank."""

    def unused_settings(self, config: Config) -> dict[str, str]:
        """The keys and groups that the task does not use, each with the reason."""


TASKS: dict[Task, TaskModule] = {
    Task.train: train,
    Task.eval: evaluate,
    Task.generate: generate,
    Task.prepare: prepare,
    Task["import"]: import_model,
    Task.export: export_model,
}
NAMED_CHOICES = ("model", "optimizer", "scheduler", "eval/dynamic", "generate")  # groups with a `name`


class CheckConfig(Callback):
    """Checks the configuration of a single run before Hydra creates its run directory."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        HydraConfig.instance().set_config(config)  # as for the checks of a run, a little later
        composed = config.copy()
        composed._set_flag("struct", False)
        composed.pop("hydra")
        with exit_on_user_errors():
            checked = typed(composed)
            check(checked)
            process_count(checked, find_rank_info())
            check_writable(Path(config.hydra.run.dir), "hydra.run.dir")
            check_run_dir(checked, Path(config.hydra.run.dir))

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        with exit_on_user_errors():
            check_sweeper(config)
            check_writable(Path(config.hydra.sweep.dir), "hydra.sweep.dir")


def run(composed: DictConfig) -> float | None:
    """Run the task in Hydra's output directory, in one process per GPU or in trainer.devices processes.

    Returns what a sweeper that searches minimises, if the task has such a number.
    """
    run_in_world(composed, entry=run, check=check, work=_perform)
    return objective(Path(HydraConfig.get().runtime.output_dir))


@denied_files_reported()
def check(config: Config) -> None:
    """Raise UserError for invalid settings, or for files that may not be read."""
    config.eval.check()
    losses = Path(config.eval.save_losses or "").expanduser()
    if losses.is_absolute():  # a relative one is in the run directory
        check_writable(losses.parent, "eval.save_losses")
    for group in NAMED_CHOICES:
        key = group.replace("/", ".")
        chosen = attrgetter(key)(config)
        if chosen.name != type(chosen).name:
            raise UserError(f"{key}.name={chosen.name} cannot be set: use {group}={chosen.name}")
    if not 0 <= config.seed < 2**63:
        raise UserError(f"seed={config.seed} must be at least 0 and below 2^63")
    device = pick_device(config.trainer.device)
    if config.trainer.compile:
        check_compiler(device)
    if config.checkpoint is not None:
        locate_checkpoint(config.checkpoint)
    TASKS[config.task].check(config)


def check_run_dir(config: Config, run_dir: Path) -> None:
    """UserError if the directory holds another run, as far as that shows before a corpus or a model is read."""
    if config.task is Task.train:
        check_same_settings(config, run_dir)
    elif config.task in (Task.eval, Task.generate):
        refuse_training_run(run_dir)


def settings_without_effect(config: Config, overrides: list[str]) -> list[str]:
    """One sentence for each override that this task does not use."""
    unused = {name: f"it is only for task={name}" for name in ("import", "export") if name != config.task.name}
    if config.task is not Task.train:
        unused |= dict.fromkeys((f"trainer.{each.name}" for each in fields(TrainerConfig)), "nothing is trained")
        for key in ("precision", "device", "devices", "compile"):
            del unused[f"trainer.{key}"]
    if config.task is not Task.generate:
        unused |= dict.fromkeys(("prompt", "generate"), "it generates no text")
    unused |= TASKS[config.task].unused_settings(config)
    parsed = OverridesParser.create().parse_overrides(overrides)
    keys = {override.key_or_group.replace("/", "."): override.input_line for override in parsed}
    sentences = []
    for key, override in keys.items():
        if names := [name for name in unused if key == name or key.startswith(f"{name}.")]:
            reason = unused[max(names, key=len)]  # of the setting rather than of its group
            sentences.append(f"{override} has no effect with task={config.task.name}: {reason}")
    return sentences


def slow_settings(config: Config, device: torch.device) -> list[str]:
    """One sentence for each setting that makes this run slower than it need be."""
    computes = config.task in (Task.train, Task.eval, Task.generate)
    if computes and config.trainer.precision is Precision.bf16 and device.type == "cpu" and not cpu_has_bf16():
        return ["trainer.precision=bf16 is slower than fp32 on this processor, which has no instructions for it"]
    return []


def _perform(config: Config, run_dir: Path, world: World) -> None:
    without_effect = settings_without_effect(config, words_of(HydraConfig.get().overrides.task))
    for warning in without_effect + slow_settings(config, world.device):
        log.warning("%s", warning)
    with denied_files_reported(), full_disk_reported(run_dir, "hydra.run.dir"):
        TASKS[config.task].run(config, run_dir, world)
    if world.is_main:
        (run_dir / ERROR).unlink(missing_ok=True)  # of an earlier start: this one ended well

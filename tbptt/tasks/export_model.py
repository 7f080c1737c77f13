"""`task=export`: converts a checkpoint to the files of another system. Imported weights are exported bit for bit."""

from __future__ import annotations

import json
import logging
import os
import shutil
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from tbptt.cli.config import Config, from_dict
from tbptt.cli.directories import check_writable
from tbptt.data import language, subwords
from tbptt.data.config import Level
from tbptt.data.vocabulary import Vocabulary, load_vocabulary
from tbptt.errors import UserError, full_disk_reported
from tbptt.interop import hf, original
from tbptt.interop.config import ExportConfig, ExportFormat
from tbptt.launch.world import World
from tbptt.models import CONFIGS as MODELS
from tbptt.models import ModelConfig
from tbptt.models.stack import StackConfig
from tbptt.models.transformer_xl import TransformerXL, TransformerXLConfig
from tbptt.report.progress import announce_reading
from tbptt.tasks.loading import require_checkpoint
from tbptt.training.checkpoint import WEIGHTS, Checkpoint

log = logging.getLogger(__name__)
# The name of a format's system, and the models that exist there.
SYSTEMS = {
    ExportFormat.hf: ("HF", (TransformerXLConfig.name, StackConfig.name)),
    ExportFormat.original: ("the original", (TransformerXLConfig.name,)),
}


def check(config: Config) -> None:
    """Also opens the checkpoint, so that no run directory is created for a damaged one."""
    folder = require_checkpoint(config)
    config.export.check()
    check_writable(Path(str(config.export.path)).expanduser(), "export.path")
    check_format(_open_once(folder), config.export)


def unused_settings(config: Config) -> dict[str, str]:
    groups = ("data", "model", "eval", "optimizer", "scheduler", "trainer", "logger", "experiment", "seed")
    return dict.fromkeys(groups, "it only converts a model")


def run(config: Config, run_dir: Path, world: World) -> None:
    """Write `config.checkpoint` in the format and directory of `config.export`."""
    checkpoint = _open_once(require_checkpoint(config))
    log.info("Exported %s: %s", checkpoint.folder, write(checkpoint, config.export))


@lru_cache(maxsize=1)
def _open_once(folder: Path) -> Checkpoint:
    announce_reading(folder)
    return Checkpoint.open(folder)


def check_format(checkpoint: Checkpoint, config: ExportConfig) -> None:
    """UserError if the format cannot represent the model."""
    if config.format not in SYSTEMS:
        return
    name = checkpoint.info["config"]["model"]["name"]
    system, models = SYSTEMS[config.format]
    if name not in models:
        raise UserError(
            f"{checkpoint.folder} is of model {name}, which does not exist in {system}: use "
            f"export.format={ExportFormat.safetensors.name}"
        )
    (hf if config.format is ExportFormat.hf else original).check_export(_model_config(checkpoint))


def _model_config(checkpoint: Checkpoint) -> ModelConfig:
    settings = checkpoint.info["config"]["model"]
    return from_dict(MODELS[settings["name"]], settings)


def write(checkpoint: Checkpoint, config: ExportConfig) -> Path:
    """Write the directory config.path atomically."""
    assert config.path is not None
    target = Path(config.path).expanduser()
    partial = target.with_name(f"{target.name}.writing")
    shutil.rmtree(partial, ignore_errors=True)
    with full_disk_reported(target.parent, "export.path"):
        partial.mkdir(parents=True)
        try:
            _write_files(partial, checkpoint, config)
            os.rename(partial, target)
        except BaseException:
            shutil.rmtree(partial)
            raise
    return target


def _write_files(folder: Path, checkpoint: Checkpoint, export: ExportConfig) -> None:
    run_dir, n_token = checkpoint.run_dir, checkpoint.info["identity"]["data"]["vocab_size"]
    for name in (language.FILE, subwords.FILE):
        if (run_dir / name).is_file():
            shutil.copyfile(run_dir / name, folder / name)
    if export.format is ExportFormat.safetensors:
        shutil.copyfile(checkpoint.folder / WEIGHTS, folder / WEIGHTS)
        _write_json(folder / "config.json", checkpoint.info["config"]["model"] | {"vocab_size": n_token})
        return
    config = _model_config(checkpoint)
    model = config.build(n_token)
    checkpoint.load_weights(model)
    if export.format is ExportFormat.hf:
        hf.write(model, config, _word_vocabulary(run_dir), folder, checkpoint.model_type)
    else:
        assert isinstance(model, TransformerXL) and isinstance(
            config, TransformerXLConfig
        )  # check_format has seen to it
        with open(folder / "state_dict.pt", "wb") as file:  # of a path, torch would not tell why it cannot be written
            torch.save(original.state_dict(model), file, _use_new_zipfile_serialization=False)  # for torch before 1.6
        _write_json(folder / "args.json", original.arguments(config, n_token))


def _word_vocabulary(run_dir: Path) -> Vocabulary | None:
    """The vocabulary of a word-level run; None for other levels, or if the run has none."""
    path = run_dir / language.FILE
    vocabulary = load_vocabulary(path) if path.is_file() else None
    return vocabulary if vocabulary is not None and vocabulary.level is Level.word else None


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")

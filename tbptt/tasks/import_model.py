"""`task=import`: converts another system's checkpoint to a run directory with checkpoint and vocabulary."""

from __future__ import annotations

import logging
from functools import lru_cache
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from tbptt.cli.config import Config
from tbptt.data import language, subwords
from tbptt.data.config import Level
from tbptt.errors import UserError
from tbptt.files import replacing
from tbptt.interop.config import ImportConfig
from tbptt.interop.importing import Imported, read
from tbptt.launch.world import World
from tbptt.models.stack import StackConfig
from tbptt.models.transformer_xl import TransformerXLConfig
from tbptt.report.progress import announce_reading
from tbptt.training.checkpoints import Checkpoints
from tbptt.training.optimizers import AdamConfig

log = logging.getLogger(__name__)
CHOICES = "conf"  # the folder, in a run directory, that makes model=imported a choice
CHOICE = "imported"
# What model=imported begins with, before the model's own settings: a recipe, or a schema.
BASES = {TransformerXLConfig.name: "/model/txl_16l", StackConfig.name: "/schema/model/stack"}


def check(config: Config) -> None:
    """Also reads all files, so that no run directory is created for an invalid one."""
    config.importing.check()
    _read_once(*_source(config.importing))


def unused_settings(config: Config) -> dict[str, str]:
    groups = ("data", "model", "eval", "optimizer", "scheduler", "trainer", "logger", "experiment", "seed")
    unused = dict.fromkeys(groups, "it only converts a model")
    return unused | {"checkpoint": "it reads import.path"}


def run(config: Config, run_dir: Path, world: World) -> None:
    """Write the model that `check` has read to a run directory."""
    imported = _read_once(*_source(config.importing))
    write(imported, config.importing, run_dir)
    report(imported, run_dir)


def _source(config: ImportConfig) -> tuple[Any, ...]:
    return config.format, config.path, config.config, config.vocabulary


@lru_cache(maxsize=1)
def _read_once(*source: Any) -> Imported:
    announce_reading(Path(source[1]).expanduser())
    return read(ImportConfig(*source))


def write(imported: Imported, config: ImportConfig, run_dir: Path) -> None:
    """Write the run directory, its checkpoint last: with one, it is complete. UserError if there are checkpoints."""
    assert config.format is not None
    checkpoints = Checkpoints(run_dir / "checkpoints", keep=1)
    if checkpoints.exist():
        raise UserError(f"{run_dir} has checkpoints already: delete it, or choose another hydra.run.dir")
    vocabulary = imported.vocabulary
    if vocabulary is not None:
        with replacing(run_dir / language.FILE, "hydra.run.dir") as new:
            new.write_text(vocabulary.to_json(), encoding="utf-8")
    if imported.tokenizer is not None:
        with replacing(run_dir / subwords.FILE, "hydra.run.dir") as new:
            new.write_text(imported.tokenizer.to_str(pretty=True), encoding="utf-8")
    (run_dir / CHOICES / "model").mkdir(parents=True, exist_ok=True)
    with replacing(run_dir / CHOICES / "model" / f"{CHOICE}.yaml", "hydra.run.dir") as new:
        new.write_text(_choice(imported.config, config.path), encoding="utf-8")
    model = OmegaConf.to_container(OmegaConf.structured(imported.config), enum_to_str=True)
    data = {
        "name": f"import.format={config.format.name}",
        "level": (vocabulary.level if vocabulary is not None else Level.word).name,
        "vocab_size": imported.model.embedding.bounds[-1][1],
        "vocabulary_sha256": vocabulary.sha256 if vocabulary is not None else None,
        "train_tokens_sha256": None,
    }
    optimizer = {"optimizer": {"name": AdamConfig.name}} if imported.adam else {}
    info = {
        "identity": {"model": model, "data": data} | optimizer,
        "config": {"model": model, "data": None},
        "imported": {
            "format": config.format.name,
            "path": config.path,
            "model_type": imported.model_type,
            "notes": imported.notes,
        },
    }
    training = {"trainer": {"step": imported.step, "optimizer": imported.adam}}
    checkpoints.save(imported.step, imported.model, training, info, best=True)


def report(imported: Imported, run_dir: Path) -> None:
    """Log what was imported, what was not, and the commands to use the model."""
    params = sum(parameter.numel() for parameter in imported.model.parameters())
    log.info("%s parameters, after %s updates", f"{params:,}", f"{imported.step:,}")
    for note in imported.notes:
        log.info("Note: %s", note)
    if imported.vocabulary is None:
        log.warning(
            "No vocabulary was found: only its size will be compared with that of a corpus; set import.vocabulary=FILE"
        )
    log.info("Evaluate it: python run.py task=eval checkpoint=%s data=...", run_dir)
    words = [f"--config-dir {run_dir / CHOICES} model={CHOICE} checkpoint={run_dir} data=...", *imported.optimizer]
    words += ["optimizer.from_checkpoint=true"] if imported.adam else []
    log.info("Continue its training: python run.py %s", " ".join(words))


def _choice(config: StackConfig | TransformerXLConfig, source: str | None) -> str:
    """The file that makes the imported model a choice of model=."""
    plain = OmegaConf.to_container(OmegaConf.structured(config), enum_to_str=True)
    assert isinstance(plain, dict)
    used = {each.NAME for each in config.mixers()} if isinstance(config, StackConfig) else set[str]()
    model = {key: value for key, value in plain.items() if key in used or not isinstance(value, dict)}
    del model["name"]
    head = f"# @package _global_\n# The model of {source!r}: with --config-dir, model={CHOICE}.\n"
    return head + OmegaConf.to_yaml({"defaults": [BASES[config.name], "_self_"], "model": model})

"""`task=import`: another system's checkpoint -> a run directory with checkpoint, configuration and vocabulary."""

from __future__ import annotations

import logging
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from tbptt.cli.config import Config
from tbptt.data import language
from tbptt.data.config import Level
from tbptt.errors import UserError
from tbptt.interop.config import ImportConfig
from tbptt.interop.importing import Imported, read
from tbptt.launch.world import World
from tbptt.training.checkpoints import Checkpoints
from tbptt.training.optimizers import AdamConfig

log = logging.getLogger(__name__)


def check(config: Config) -> None:
    """Reads all of it, so that a wrong file leaves no run directory behind."""
    config.importing.check()
    _read_once(*_source(config.importing))


def unused_settings(config: Config) -> dict[str, str]:
    groups = ("data", "model", "eval", "optimizer", "scheduler", "trainer", "logger", "experiment", "seed")
    unused = dict.fromkeys(groups, "it only brings a model into another form")
    return unused | {"checkpoint": "import.path is what it reads"}


def run(config: Config, run_dir: Path, world: World) -> None:
    """Make a run directory of what `check` has read."""
    imported = _read_once(*_source(config.importing))
    write(imported, config.importing, run_dir)
    report(imported, run_dir)


def _source(config: ImportConfig) -> tuple[Any, ...]:
    return config.format, config.path, config.config, config.vocabulary


@lru_cache(maxsize=1)
def _read_once(*source: Any) -> Imported:
    return read(ImportConfig(*source))


def write(imported: Imported, config: ImportConfig, run_dir: Path) -> None:
    """The run directory; its checkpoint comes last, so that what can be used is whole. UserError if it has one."""
    assert config.format is not None
    checkpoints = Checkpoints(run_dir / "checkpoints", keep=1)
    if checkpoints.folder.exists():
        raise UserError(f"{run_dir} has checkpoints already: delete it, or choose another hydra.run.dir")
    words = imported.vocabulary
    if words is not None:
        new = run_dir / f"{language.FILE}.new"
        new.write_text(words.to_json(), encoding="utf-8")
        os.replace(new, run_dir / language.FILE)
    model = OmegaConf.to_container(OmegaConf.structured(imported.config), enum_to_str=True)
    data = {
        "name": f"import.format={config.format.name}",
        "level": (words.level if words is not None else Level.word).name,
        "vocab_size": imported.model.embedding.bounds[-1][1],
        "vocabulary_sha256": words.sha256 if words is not None else None,
        "train_sha256": None,
    }
    optimizer = {"optimizer": {"name": AdamConfig.name}} if imported.adam else {}
    info = {
        "identity": {"model": model, "data": data} | optimizer,
        "config": {"model": model, "data": None},
        "imported": {"format": config.format.name, "path": config.path, "notes": imported.notes},
    }
    training = {"trainer": {"step": imported.step, "optimizer": imported.adam}}
    checkpoints.save(imported.step, imported.model, training, info, best=True)


def report(imported: Imported, run_dir: Path) -> None:
    """Log what came along, what did not, and the commands that go on from here."""
    params = sum(parameter.numel() for parameter in imported.model.parameters())
    log.info("%s parameters, after %s updates", f"{params:,}", f"{imported.step:,}")
    for note in imported.notes:
        log.info("Note: %s", note)
    if imported.vocabulary is None:
        log.warning(
            "No vocabulary came along: of a corpus only the number of words can be compared (import.vocabulary=)"
        )
    log.info("Evaluate it: python run.py task=eval checkpoint=%s data=...", run_dir)
    log.info("Train it on: python run.py checkpoint=%s data=... %s", run_dir, " ".join(_overrides(imported)))


def _overrides(imported: Imported) -> list[str]:
    """The command line's words for the imported model's settings."""
    plain = OmegaConf.to_container(OmegaConf.structured(imported.config), enum_to_str=True)
    assert isinstance(plain, dict)
    chosen = {str(key): value for key, value in plain.items() if key != "name"}
    words = {key: str(value).lower().replace(" ", "").replace("none", "null") for key, value in chosen.items()}
    adam = ["optimizer.from_checkpoint=true"] if imported.adam else []
    return ["model=txl_16l", *(f"model.{key}={word}" for key, word in words.items()), *adam]

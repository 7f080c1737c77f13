"""The runs that a page compares: what each has in its directory."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from tbptt.data import language
from tbptt.data.config import Level
from tbptt.data.vocabulary import load_vocabulary
from tbptt.errors import UserError
from tbptt.report.members import RECORDS, Member, members_in
from tbptt.report.metrics import METRICS, read_metrics
from tbptt.report.positions import read_positions
from tbptt.report.results import read_error

# What a task reads of the configuration and may change its results; other tasks read all but UNREAD.
READ = {
    "eval": ("checkpoint", "data", "eval", "model", "trainer.precision", "trainer.device"),
    "generate": ("checkpoint", "eval", "generate", "model", "prompt", "seed", "trainer.precision", "trainer.device"),
}
UNREAD = ("task", "checkpoint", "prompt", "generate", "import", "export")


@dataclass(frozen=True)
class Unit:
    """What a loss is counted in: tokens of one vocabulary. Losses of different units are not compared."""

    level: Level
    vocabulary: str  # its SHA-256; empty if it is not recorded


@dataclass
class Run:
    """A run, or a member of a sweep; without a task if it failed before it had a configuration."""

    folder: Path  # as given
    name: str = ""  # its folder, relative to the one that all runs of the page are in
    task: str = ""
    typed: dict[str, Any] = field(default_factory=dict)  # the settings of its command line
    settings: dict[str, Any] = field(default_factory=dict)  # all that its task reads, by dotted key
    status: str = ""  # done, failed or unfinished
    error: str = ""
    unit: Unit | None = None  # None if no losses are recorded
    results: dict[str, Any] = field(default_factory=dict)
    metrics: list[dict[str, Any]] = field(default_factory=list)
    positions: list[dict[str, Any]] = field(default_factory=list)

    @property
    def progress(self) -> str:
        """The status; of an unfinished run, how far it is."""
        if self.status != "unfinished":
            return self.status
        if not self.metrics:
            return "nothing recorded yet"
        total = self.settings.get("trainer.max_steps")
        return f"unfinished: step {self.metrics[-1]['step']:,}" + (f" of {total:,}" if isinstance(total, int) else "")


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """The runs in these directories of runs or of sweeps, each once, in this order.

    UserError if one is neither, or has a file that cannot be read.
    """
    if not folders:
        raise UserError("no run is given: name the directory of a run or of a sweep, or several of them")
    found: dict[tuple[Path, str], Run] = {}
    for folder in folders:
        with _damage_reported(folder):
            members = _members(folder)
        for member in members:
            path = Path(os.path.normpath(folder / member.folder))
            with _damage_reported(path):
                found.setdefault((path.resolve(), member.refused), _read(path, member, folder))
    runs = list(found.values())
    shared = os.path.commonpath([os.path.dirname(os.path.abspath(run.folder)) for run in runs])
    for run in runs:
        run.name = os.path.relpath(run.folder, shared)
    return runs


@contextmanager
def _damage_reported(folder: Path) -> Iterator[None]:
    try:
        yield
    except (ValueError, KeyError, TypeError, YAMLError, HydraException, OmegaConfBaseException) as error:
        cause = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{folder} has a file that is damaged ({cause}): restore it, or leave this run out") from error


def _members(folder: Path) -> list[Member]:
    if not folder.is_dir():
        raise UserError(f"{folder} does not exist: give the directory of a run or of a sweep")
    members = members_in(folder)
    if members:
        return members
    if (folder / RECORDS).is_dir():
        raise UserError(f"no member of the sweep {folder} was started: there is nothing to compare")
    if (folder / METRICS).is_file():  # without Hydra's record (hydra.output_subdir=null), and not finished
        return [Member(".")]
    raise UserError(f"{folder} is neither the directory of a run nor of a sweep: give one that `python run.py` wrote")


def _read(path: Path, member: Member, sweep: Path) -> Run:
    results = member.row(sweep)
    run = Run(path, typed=member.settings, error=member.refused or read_error(path), status=results.pop("status"))
    if run.error:
        run.status = "failed"
    if member.refused:  # the folder holds another run
        return run
    run.results = results
    run.metrics, run.positions = read_metrics(path / METRICS), read_positions(path)
    if not all({"step", "tokens"} <= line.keys() for line in run.metrics):
        raise ValueError(f"{METRICS} has a line without step and tokens")
    config = _configuration(path)
    run.task = str(run.results.get("task") or config.get("task") or "")
    run.settings = _settings_read(run.task, config, run.results)
    run.unit = _unit(path, run.results) if run.metrics or "loss" in run.results else None
    return run


def _configuration(path: Path) -> dict[str, Any]:
    """The composed configuration. Interpolations stay as they were typed: they may name what the environment holds."""
    file = path / ".hydra/config.yaml"
    if not file.is_file():
        return {}
    config = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
    return {str(key): value for key, value in config.items()} if isinstance(config, dict) else {}


def _settings_read(task: str, config: dict[str, Any], results: dict[str, Any]) -> dict[str, Any]:
    """The settings that the task reads: with a checkpoint, the model is that of the checkpoint."""
    if task in READ:
        scored = results.get("scored", {}).get("checkpoint", {}).get("folder") or results.get("checkpoint")
        config = config | {"model": _model_of(scored)}
    model = config.get("model") or {}
    if "layers" in model:  # a stack, which has settings of every mixer and reads those of its layers
        used = {key: value for key, value in model.items() if not isinstance(value, dict) or key in model["layers"]}
        config = config | {"model": used}

    def read(key: str) -> bool:
        under = [name for name in READ.get(task, UNREAD) if key == name or key.startswith(f"{name}.")]
        return bool(under) == (task in READ)

    return {key: value for key, value in flattened(config).items() if read(key)}


def _model_of(checkpoint: Any) -> dict[str, Any]:
    """The settings of a checkpoint's model; none if the checkpoint is not there any more."""
    file = Path(str(checkpoint)) / "checkpoint.json"
    if not file.is_file():
        return {}
    model: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))["config"]["model"]
    return model


def flattened(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Groups of settings as dotted keys; lists stay whole."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= flattened(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _unit(path: Path, results: dict[str, Any]) -> Unit | None:
    """Of the results; of a run that has none yet, of its vocabulary."""
    if "level" in results:
        return Unit(Level[results["level"]], str(results.get("vocabulary", "")))
    if not (path / language.FILE).is_file():
        return None
    vocabulary = load_vocabulary(path / language.FILE)
    return Unit(vocabulary.level, vocabulary.sha256)

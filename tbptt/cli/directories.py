"""Run directories: their names, the right to write to them, and the lock of the process that trains in one.

The names are derived from the configuration, so that every rank and every later command agree on them.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

from filelock import FileLock, Timeout
from omegaconf import DictConfig, ListConfig, OmegaConf

from tbptt.errors import UserError
from tbptt.launch.rank_info import find_rank_info

_CHECKPOINT = re.compile("best|last|checkpoints|step_.*")  # path components below the run directory
_GENERATE_ONLY = ("prompt", "generate")  # settings that only task=generate uses


def register() -> None:
    """Register these functions as OmegaConf resolvers, for conf/config.yaml."""
    OmegaConf.register_new_resolver("run_dir", run_dir, replace=True)
    # Cached, because the jobs of a sweep have other overrides than the sweep itself.
    OmegaConf.register_new_resolver("sweep_dir", sweep_dir, replace=True, use_cache=True)
    OmegaConf.register_new_resolver("by_rank", by_rank, replace=True)
    OmegaConf.register_new_resolver("hydra_mode", hydra_mode, replace=True)


def run_dir(*, _root_: DictConfig) -> str:
    """runs/CORPUS-MODEL-HASH, with a hash of all settings that affect results: the same command gives the same run."""
    root, task, settings = _root_, _root_.task.name, result_settings(_root_)
    if task in ("eval", "generate"):
        parts = reversed(Path(str(root.checkpoint)).parts)
        run = next((part for part in parts if not _CHECKPOINT.fullmatch(part)), "")
        sampling = ("seed", *_GENERATE_ONLY) if task == "generate" else ()
        settings = {key: settings[key] for key in ("checkpoint", "eval", "data", *sampling)}
        return f"runs/{task}-{run}-{_short_hash([settings, root.trainer.precision.name])}"
    if task == "import":
        source = {key: str(value) for key, value in root["import"].items()}
        return f"runs/import-{Path(source['path']).stem}-{_short_hash(source)}"
    if task == "export":
        return f"runs/export-{_short_hash([root.checkpoint, str(root.export.path)])}"
    if task == "prepare":
        return f"runs/prepare-{root.data.name}-{_short_hash(settings['data'])}"
    trained = {key: value for key, value in settings.items() if key not in _GENERATE_ONLY}
    return f"runs/{root.data.name}-{root.hydra.runtime.choices.model}-{_short_hash(trained)}"


def sweep_dir(overrides: Sequence[str]) -> str:
    """runs/sweep-HASH, with a hash of the command line: the same sweep gives the same directory."""
    return f"runs/sweep-{_short_hash(words_of(overrides))}"


def words_of(overrides: Sequence[str]) -> list[str]:
    """The words of a command line as they were typed: an interpolation in them stays one."""
    typed: Any = OmegaConf.to_container(overrides, resolve=False) if isinstance(overrides, ListConfig) else overrides
    return [str(word) for word in typed]


def by_rank(main: str, other: str | None) -> str | None:
    """`main` on rank 0; on other ranks `other`, with %d replaced by the rank."""
    rank = find_rank_info().rank
    return (other and other.replace("%d", str(rank))) if rank else main


def check_writable(folder: Path, key: str) -> None:
    """UserError unless the folder can be created, or be written to with what a run has in it already."""
    nearest = next(each for each in (folder, *folder.absolute().parents) if os.path.lexists(each))
    for path in (nearest, folder / ".hydra", folder / "run.log"):
        if os.path.lexists(path) and not os.access(path, os.W_OK, effective_ids=True):
            raise UserError(f"{key}={folder}: {path} may not be written; choose another {key}")
    if not nearest.is_dir():
        raise UserError(f"{key}={folder}: {nearest} is not a folder; choose another {key}")


@contextmanager
def only_process(folder: Path) -> Iterator[None]:
    """UserError if another process is training in this run directory. Who may write to it may take the lock."""
    lock = FileLock(folder / "run.lock", timeout=0, mode=0o600 | folder.stat().st_mode & 0o066)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(
            f"another process is training in {folder}: wait for it, or choose another hydra.run.dir"
        ) from None
    except PermissionError as error:
        raise UserError(f"{folder} is another user's ({error}): choose another hydra.run.dir") from error
    try:
        yield
    finally:
        lock.release()


def hydra_mode(*, _root_: DictConfig) -> str | None:
    """MULTIRUN for launchers that submit jobs, even a single one, and sweepers that search; else None: -m decides."""
    choices = _root_.hydra.runtime.choices
    return None if choices["hydra/launcher"] == choices["hydra/sweeper"] == "basic" else "MULTIRUN"


def result_settings(root: DictConfig) -> dict[str, Any]:
    """The settings of a composed configuration that affect losses, weights or generated text."""
    settings = {}
    schema: Any = OmegaConf.get_type(root)
    for each in fields(schema):
        if each.name not in ("task", "logger", "import", "export"):
            node = root[each.name]
            if isinstance(node, DictConfig):
                kind: Any = OmegaConf.get_type(node)
                ignored = getattr(kind, "RESULT_NEUTRAL", ())
                kept: Any = OmegaConf.masked_copy(node, [str(key) for key in node if key not in ignored])
                kept = OmegaConf.to_container(kept, resolve=True, enum_to_str=True)
                settings[each.name] = without_neutral(kind, kept)
            else:
                settings[each.name] = node
    return settings


def without_neutral(schema: type, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a dataclass that may change results: without its RESULT_NEUTRAL, and that of its parts."""
    kinds, ignored = get_type_hints(schema), getattr(schema, "RESULT_NEUTRAL", ())
    return {
        key: without_neutral(kinds[key], value) if is_dataclass(kinds.get(key)) else value
        for key, value in settings.items()
        if key not in ignored
    }


def _short_hash(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]

"""Where a run lives: names that follow from the configuration, so that every rank and every later command finds it."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from tbptt.launch.rank_info import find_rank_info

_CHECKPOINT = re.compile("best|last|checkpoints|step_.*")  # parts of a checkpoint's path that do not name its run
_PROMPTED = ("prompt", "generate")  # what only task=generate depends on


def register() -> None:
    """Make these functions known to OmegaConf; conf/config.yaml calls them by name."""
    OmegaConf.register_new_resolver("run_dir", run_dir, replace=True)
    # Cached: Hydra hands the value on from the sweep to its jobs, whose own overrides differ.
    OmegaConf.register_new_resolver("sweep_dir", sweep_dir, replace=True, use_cache=True)
    OmegaConf.register_new_resolver("by_rank", by_rank, replace=True)
    OmegaConf.register_new_resolver("launcher_mode", launcher_mode, replace=True)


def run_dir(*, _root_: DictConfig) -> str:
    """runs/CORPUS-MODEL-HASH, the hash over all that defines the numbers: the same command finds the same run."""
    root, task, numbers = _root_, _root_.task.name, _numbers(_root_)
    if task in ("eval", "generate"):
        parts = reversed(Path(str(root.checkpoint)).parts)
        run = next((part for part in parts if not _CHECKPOINT.fullmatch(part)), "")
        drawn = ("seed", *_PROMPTED) if task == "generate" else ()
        numbers = {key: numbers[key] for key in ("checkpoint", "eval", "data", *drawn)}
        return f"runs/{task}-{run}-{_short_hash([numbers, root.trainer.precision.name])}"
    if task == "import":
        source = {key: str(value) for key, value in root["import"].items()}
        return f"runs/import-{Path(source['path']).stem}-{_short_hash(source)}"
    if task == "export":
        return f"runs/export-{_short_hash([root.checkpoint, str(root.export.path)])}"
    if task == "prepare":
        return f"runs/prepare-{root.data.name}-{_short_hash(numbers['data'])}"
    trained = {key: value for key, value in numbers.items() if key not in _PROMPTED}
    return f"runs/{root.data.name}-{root.hydra.runtime.choices.model}-{_short_hash(trained)}"


def sweep_dir(overrides: list[str]) -> str:
    """runs/sweep-HASH, the hash over the sweep's command line: the same sweep finds the same directory."""
    return f"runs/sweep-{_short_hash(list(overrides))}"


def by_rank(main: str, other: str | None) -> str | None:
    """A word for rank 0, and one for the other ranks of a run, with %d for the rank."""
    rank = find_rank_info().rank
    return (other and other.replace("%d", str(rank))) if rank else main


def launcher_mode(*, _root_: DictConfig) -> str | None:
    """Jobs of a launcher are members of a sweep to Hydra, even if there is but one; None: as -m says."""
    return None if _root_.hydra.runtime.choices["hydra/launcher"] == "basic" else "MULTIRUN"


def _numbers(root: DictConfig) -> dict[str, Any]:
    """The part of a composed configuration that losses and weights, or a text that is drawn, depend on."""
    chosen = {}
    schema: Any = OmegaConf.get_type(root)
    for each in fields(schema):
        if each.name not in ("task", "logger", "import", "export"):
            node = root[each.name]
            if isinstance(node, DictConfig):
                ignored = getattr(OmegaConf.get_type(node), "RESULT_NEUTRAL", ())
                kept = OmegaConf.masked_copy(node, [str(key) for key in node if key not in ignored])
                chosen[each.name] = OmegaConf.to_container(kept, resolve=True, enum_to_str=True)
            else:
                chosen[each.name] = node
    return chosen


def _short_hash(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]

"""The members of a sweep: where each runs, its settings, and how its start ended.

They are recorded by the sweep itself, in SWEEP/.members/NUMBER.json, and not looked for in its folders: these may have
any name (hydra.sweep.subdir), lack Hydra's own record (hydra.output_subdir) or be left over from another sweep.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from tbptt.report.results import RESULTS, read_error, read_results

RECORDS = ".members"


@dataclass
class Member:
    """A member of a sweep, or a single run."""

    folder: str  # relative to the sweep's
    settings: dict[str, Any] = field(default_factory=dict)  # those of its command line
    ended: bool = False  # without an error
    refused: str = ""  # the error of a start that left none in the folder, which may hold another run

    def row(self, sweep_dir: Path) -> dict[str, Any]:
        """The member's status and results."""
        folder = sweep_dir / self.folder
        error, results = self.refused or read_error(folder), read_results(folder)
        if error:
            return {"status": f"failed: {error.splitlines()[-1]}"}  # lines before the last are a traceback
        if results or self.ended:
            return {"status": "done"} | results
        return {"status": "unfinished"}


def shown_name(run_dir: Path) -> str:
    """What figures and loggers call a run: its folder; SWEEP/NUMBER if that is a number alone."""
    return f"{run_dir.parent.name}/{run_dir.name}" if run_dir.name.isdigit() else run_dir.name


def forget_members(sweep_dir: Path) -> None:
    """Delete the records of an earlier sweep in this directory."""
    if sweep_dir.is_dir():
        shutil.rmtree(sweep_dir / RECORDS, ignore_errors=True)
        (sweep_dir / RECORDS).mkdir()


def record_member(sweep_dir: Path, number: int, member: Member) -> None:
    path = sweep_dir / RECORDS / f"{number}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    new.write_text(json.dumps(asdict(member)) + "\n", encoding="utf-8")
    os.replace(new, path)


def recorded_members(sweep_dir: Path) -> dict[int, Member]:
    """The members by their numbers."""
    paths = sorted((sweep_dir / RECORDS).glob("*.json"), key=lambda path: int(path.stem))
    return {int(path.stem): Member(**json.loads(path.read_text(encoding="utf-8"))) for path in paths}


def members_in(folder: Path) -> list[Member]:
    """The members of a sweep, or a single run itself. Without records, of an older version, all folders in it."""
    if (folder / RECORDS).is_dir():
        return list(recorded_members(folder).values())
    runs = sorted((path.parent for path in folder.glob("*/.hydra")), key=_number)
    if (folder / ".hydra").is_dir() or (folder / RESULTS).is_file():
        runs.append(folder)
    return [Member(os.path.relpath(run, folder), settings_of(_words(run / ".hydra/overrides.yaml"))) for run in runs]


def settings_of(words: Sequence[str]) -> dict[str, Any]:
    """The keys (or groups) of a command line, as Hydra reads them; a list or a group of settings as it was typed."""
    settings: dict[str, Any] = {}
    for override in OverridesParser.create().parse_overrides(list(words)):
        value = override.value()
        if override.is_delete():
            settings[f"~{override.key_or_group}"] = ""
        else:
            settings[override.key_or_group] = override.get_value_string() if isinstance(value, list | dict) else value
    return settings


def _words(path: Path) -> list[str]:
    if not path.is_file():
        return []
    words = OmegaConf.to_container(OmegaConf.load(path), resolve=False)  # an interpolation is shown as it was typed
    assert isinstance(words, list)
    return [str(word) for word in words]


def _number(path: Path) -> tuple[int, str]:
    name = path.name
    return (int(name) if name.isdigit() else -1, name)

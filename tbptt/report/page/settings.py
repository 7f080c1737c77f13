"""The settings of runs of one task: those that differ, in tables, and those that all of them share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tbptt.report.page.runs import Run
from tbptt.report.page.text import shown_setting
from tbptt.report.sweep import varied_settings

TITLES = {"train": "Training", "eval": "Evaluation", "generate": "Generation"}
ABSENT = "–"  # a setting that this run does not have, such as one of another model


@dataclass
class Settings:
    """Of the runs of one task, in their order. Every value is text."""

    title: str
    runs: list[Run]
    differing: dict[str, list[str]]  # the value of every run
    partial: dict[str, list[str]]  # those that only some of the runs have
    common: dict[str, str]


def upright(differing: dict[str, list[str]], runs: Sequence[Run]) -> bool:
    """Whether a setting is a row of the table, and not a column: where there are more settings than runs."""
    return len(differing) > len(runs)


def compare_settings(runs: Sequence[Run]) -> list[Settings]:
    """One table for every task that has settings. What a task does not read is not compared."""
    tasks = dict.fromkeys(run.task for run in runs if run.settings)
    return [_compared(task, [run for run in runs if run.settings and run.task == task]) for task in tasks]


def _compared(task: str, runs: list[Run]) -> Settings:
    keys = list(dict.fromkeys(key for run in runs for key in run.settings))
    values = {
        key: [shown_setting(run.settings[key]) if key in run.settings else ABSENT for run in runs] for key in keys
    }
    rows = [{key: values[key][number] for key in keys} for number in range(len(runs))]
    varied = {key: values[key] for key in varied_settings(rows)}
    partial = {key: row for key, row in varied.items() if any(key not in run.settings for run in runs)}
    differing = {key: row for key, row in varied.items() if key not in partial}
    common = {key: row[0] for key, row in values.items() if key not in varied}
    return Settings(TITLES.get(task, task), runs, differing, partial, common)


def describe(runs: Sequence[Run]) -> list[str]:
    """For each run, what its command line has and that of another run of the same task has not."""
    texts = []
    for run in runs:
        peers = [other.typed for other in runs if other.task == run.task or not run.task]
        varied = [key for key in varied_settings(peers) if key in run.typed]
        texts.append(", ".join(f"{key}={shown_setting(run.typed[key])}" for key in varied))
    return texts

"""The table of results: a group of rows for every text and unit, within which numbers are compared."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tbptt.data.config import Level
from tbptt.report.page.runs import Run
from tbptt.report.page.settings import ABSENT
from tbptt.report.page.text import concealed, duration, fixed, significant, whole
from tbptt.report.sweep import DYNAMIC_PREFIX, UNITS

TOKENS = {Level.byte: "bytes", Level.char: "characters", Level.word: "words", Level.bpe: "subwords"}

BITS = (Level.byte, Level.char)  # whose usual unit is bits


@dataclass
class Column:
    key: str  # in results.json, dotted
    title: str
    unit: str
    show: Callable[[float], str]
    best: Callable[..., Any] | None = None  # of the values of a group


@dataclass
class Cell:
    text: str
    best: bool = False  # of its column and group


@dataclass
class Group:
    """Runs whose losses are of the same text, in the same unit."""

    title: str
    rows: list[tuple[Run, list[Cell]]]


@dataclass
class Scores:
    columns: list[Column]
    groups: list[Group]


LOSSES = {
    "loss": ("loss", "nats/token", fixed),
    "bpc": ("bpc", "bits/{level}", fixed),
    "ppl": ("perplexity", "per token", significant),
    "word_ppl": ("perplexity", "per word", significant),
    "bits_per_byte": ("bits per byte", "of the text", fixed),
}
COLUMNS = [
    *(Column(key, *LOSSES[key], min) for key in UNITS),
    *(Column(DYNAMIC_PREFIX + key, f"dynamic {LOSSES[key][0]}", *LOSSES[key][1:], min) for key in UNITS),
    Column("train.best_valid_loss", "best validation", "nats/token", fixed, min),
    Column("params", "parameters", "", whole),
    Column("train.tokens", "trained on", "tokens", whole),
    Column("train.tokens_per_second", "training speed", "tokens/s", whole, max),
    Column("train.seconds", "training time", "", duration),
    Column("tokens_per_second", "scoring speed", "tokens/s", whole, max),
]


def compare_scores(runs: Sequence[Run]) -> Scores:
    """The results of all runs that have scored a text. The best is marked only among two runs or more."""
    groups: dict[tuple[Any, ...], list[Run]] = {}
    for run in runs:
        if "loss" in run.results and run.unit is not None:
            text = run.results.get("text_sha256") or _corpus(run)  # which an evaluation need not name
            key = (run.unit, text, str(run.results.get("split", "")), run.results.get("tokens", 0))
            groups.setdefault(key, []).append(run)
    levels = dict.fromkeys(unit.level.name for unit, *_ in groups if unit.level in BITS)
    shown = [
        column
        for column in COLUMNS
        if any(_value(run, column) is not None for group in groups.values() for run in group)
    ]
    shown = [replace(column, unit=column.unit.format(level=" or ".join(levels))) for column in shown]
    return Scores(shown, [Group(_title(group), _rows(group, shown)) for group in groups.values()])


def _corpus(run: Run) -> str:
    return concealed(str(run.settings.get("data.path") or run.settings.get("data.name") or ""))


def _title(runs: Sequence[Run]) -> str:
    """The corpus is named by a run that was trained on it: the settings of an evaluation may be those of another."""
    unit, split, tokens = runs[0].unit, runs[0].results.get("split", ""), runs[0].results.get("tokens", 0)
    assert unit is not None
    corpus = next((_corpus(run) for run in runs if run.results.get("task") == "train"), "")
    part = "a text of your own" if split == "text" else f"{split} split" + (f" of {corpus}" if corpus else "")
    return f"{part}: {tokens:,} {TOKENS[unit.level]}"


def _rows(runs: list[Run], columns: list[Column]) -> list[tuple[Run, list[Cell]]]:
    cells = [_cells([_value(run, column) for run in runs], column) for column in columns]
    return [(run, [column[number] for column in cells]) for number, run in enumerate(runs)]


def _cells(values: list[float | None], column: Column) -> list[Cell]:
    """The best is marked in all cells that show the same digits, unless all of them do."""
    texts = [
        ABSENT if value is None else column.show(value) if math.isfinite(value) else str(value) for value in values
    ]
    finite = [value for value in values if value is not None and math.isfinite(value)]
    differ = len({column.show(value) for value in finite}) > 1
    best = column.show(column.best(finite)) if column.best and differ else None
    return [Cell(text, text == best) for text in texts]


def _value(run: Run, column: Column) -> float | None:
    """None for perplexities of bytes and characters too."""
    if run.unit is not None and run.unit.level in BITS and column.key.endswith("ppl"):
        return None
    value: Any = run.results
    for key in column.key.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, int | float) else None

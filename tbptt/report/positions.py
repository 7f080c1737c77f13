"""The loss by position since the state was empty: the files of a run, and those of all members of a sweep together."""

from __future__ import annotations

import csv
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tbptt.data.config import Level
from tbptt.files import replacing
from tbptt.report.members import shown_name
from tbptt.report.positions_figure import Curve, draw_positions
from tbptt.report.results import why_incomparable
from tbptt.report.sweep_figure import line_names

log = logging.getLogger(__name__)
POSITIONS = "positions.csv"
FIGURE = "positions.png"
OF_A_SWEEP = "sweep_"  # before both names: the directory of a sweep may be that of a run
TRAINED = "trained_tgt_len"  # the key in results.json of the segment length in training

Row = dict[str, Any]


def forget_positions(folder: Path) -> None:
    """Delete the files that an earlier start left."""
    for name in (POSITIONS, FIGURE):
        (folder / name).unlink(missing_ok=True)


def write_positions(rows: list[Row], level: Level, tgt_len: int, run_dir: Path) -> None:
    """Write the table and the figure of a run. `tgt_len`: the segment length in training, which the figure marks.

    Each row is a bucket: `first` and `last` position, `targets`, `pieces`, `loss`, `standard_error`, and the other
    units of the loss.
    """
    _write(rows, list(rows[0]), run_dir / POSITIONS, "hydra.run.dir")
    log.info("Losses by position: %s", run_dir / POSITIONS)
    if draw_positions([Curve("", rows, tgt_len)], level, run_dir / FIGURE, shown_name(run_dir)):
        log.info("Figure of them: %s", run_dir / FIGURE)


def read_positions(run_dir: Path) -> list[Row]:
    """The rows that `write_positions` wrote; empty if there are none."""
    path = run_dir / POSITIONS
    if not path.is_file():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return [{key: _number(value) for key, value in row.items()} for row in csv.DictReader(file)]


def report_positions(members: Sequence[tuple[Path, Row]], varied: list[str], target: Path) -> None:
    """Write the table and the figure of all members that have one into `target`; print where they are.

    `members`: the run directory of each, and its results and the settings `varied`, which differ between members.
    """
    table, figure = target / (OF_A_SWEEP + POSITIONS), target / (OF_A_SWEEP + FIGURE)
    table.unlink(missing_ok=True)
    figure.unlink(missing_ok=True)
    found = [(member, rows) for folder, member in members if TRAINED in member and (rows := read_positions(folder))]
    if not found:
        return
    joined = [{key: member[key] for key in varied} | row for member, rows in found for row in rows]
    _write(joined, list(dict.fromkeys(key for row in joined for key in row)), table, "hydra.sweep.dir")
    print(f"Losses by position: {table}")
    if obstacle := why_incomparable([member for member, _ in found]):
        print(f"No figure of them: {obstacle}")
        return
    names = line_names([member for member, _ in found], varied)
    curves = [Curve(name, rows, member[TRAINED]) for name, (member, rows) in zip(names, found)]
    if draw_positions(curves, Level[found[0][0]["level"]], figure, ""):
        print(f"Figure of them: {figure}")


def _number(text: str) -> float | None:
    return int(text) if text.isdigit() else float(text) if text else None


def _write(rows: list[Row], columns: list[str], path: Path, key: str) -> None:
    with replacing(path, key) as new:
        with open(new, "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)

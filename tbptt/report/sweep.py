"""The table and the figure of all members of a sweep."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tbptt.files import replacing
from tbptt.report.members import members_in
from tbptt.report.positions import report_positions
from tbptt.report.results import why_incomparable
from tbptt.report.sweep_figure import draw_sweep

UNITS = ("loss", "ppl", "bpc", "word_ppl", "bits_per_byte")
DYNAMIC_PREFIX = "dynamic_"  # of the keys of dynamic evaluation, which are not compared with static evaluation
RESULT_KEYS = (*UNITS, *(DYNAMIC_PREFIX + key for key in UNITS), "tokens", "tokens_per_second", "seconds", "params")


def report_sweeps(sweep_dirs: Sequence[Path], target: Path) -> None:
    """Write sweep.csv and sweep.png for all members of these sweeps (or single runs) into `target`; print the table.

    With them, the losses by position of those members that have some.
    """
    members = [(folder, member) for folder in sweep_dirs for member in members_in(folder)]
    table, figure = target / "sweep.csv", target / "sweep.png"
    table.unlink(missing_ok=True)  # of an earlier sweep in this directory
    figure.unlink(missing_ok=True)
    if not members:
        print(f"No table and no figure in {target}: no member of the sweep was started")
        return
    varied = varied_settings([member.settings for _, member in members])
    rows: list[dict[str, Any]] = [
        member.row(folder) | {key: member.settings.get(key) for key in varied} for folder, member in members
    ]
    columns = [*varied, "status", *(key for key in RESULT_KEYS if any(key in row for row in rows))]
    replaced = replacing(table, "hydra.sweep.dir")
    with replaced as new, open(new, "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    # If any member has a dynamic evaluation, only such members are compared, by their dynamic losses.
    prefix = DYNAMIC_PREFIX if any(f"{DYNAMIC_PREFIX}loss" in row for row in rows) else ""
    compared = [row for row in rows if f"{prefix}loss" in row]
    obstacle = why_incomparable(compared)
    finite = [] if obstacle else [row for row in compared if math.isfinite(row[f"{prefix}loss"])]
    _print_table(rows, columns, len(varied), min(finite, key=lambda row: row[f"{prefix}loss"], default=None))
    print(f"Table: {table}")
    if obstacle:
        print(f"No figure and no best: {obstacle}")
    elif not compared:
        print("No figure: no member has a loss")
    elif draw_sweep(compared, varied, prefix, figure):
        print(f"Figure: {figure}")
    folders = [folder / member.folder for folder, member in members]
    report_positions(list(zip(folders, rows)), varied, target)


def varied_settings(jobs: list[dict[str, Any]]) -> list[str]:
    """The settings that differ between jobs, in command-line order."""
    keys = list(dict.fromkeys(key for job in jobs for key in job))
    return [key for key in keys if len({str(job.get(key)) for job in jobs}) > 1]


def _print_table(rows: list[dict[str, Any]], columns: list[str], settings: int, best: dict[str, Any] | None) -> None:
    """Print the rows. The first `settings` columns are settings, printed as given; the others are results."""
    cells = [columns]
    for row in rows:
        given = [" ".join(str(row[column]).split()) for column in columns[:settings]]
        cells.append(given + [_cell(row.get(column)) for column in columns[settings:]])
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    for line, job in zip(cells, [None, *rows]):
        mark = "  <- best" if job is not None and job is best else ""
        text = "  ".join(cell.rjust(width) for cell, width in zip(line, widths)) + mark
        print(text.encode(errors="backslashreplace").decode())  # an argument that is not UTF-8


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:,.4f}" if isinstance(value, float) else str(value)

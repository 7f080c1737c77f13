"""One table and one figure for all jobs of a sweep."""

from __future__ import annotations

import atexit
import csv
import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, ListConfig, OmegaConf

from tbptt.launch.jobs import wait_for_jobs
from tbptt.report.sweep_figure import draw_sweep

UNITS = ("loss", "ppl", "bpc", "word_ppl", "bits_per_byte")
DYNAMIC = "dynamic_"  # before the names of dynamic evaluation's numbers, which are never mixed with the static ones
RESULTS = (*UNITS, *(DYNAMIC + key for key in UNITS), "tokens", "tokens_per_second", "seconds", "params")


class SweepReport(Callback):
    """Reports when the sweep's process ends, so that a failed or interrupted sweep leaves its table too."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        sweep_dir = Path(config.hydra.sweep.dir)
        wait_for_jobs(sweep_dir, "Waiting for jobs of an earlier start of this sweep:")
        atexit.register(_finish, sweep_dir)


def _finish(sweep_dir: Path) -> None:
    with suppress(KeyboardInterrupt):
        wait_for_jobs(sweep_dir, "Waiting for the other jobs of this sweep:")
    report_sweeps([sweep_dir], sweep_dir)


def report_sweeps(sweep_dirs: Sequence[Path], target: Path) -> None:
    """Write sweep.csv and sweep.png of all jobs of these sweeps (or single runs) into `target`; print the table."""
    found = [path for folder in sweep_dirs for path in sorted(folder.glob("*/.hydra"), key=_job_number)]
    found += [folder / ".hydra" for folder in sweep_dirs if (folder / ".hydra").is_dir()]
    jobs = [_read_job(path.parent) for path in found]
    if not jobs:
        return
    varied = _varied([overrides for overrides, _ in jobs])
    rows: list[dict[str, Any]] = [results | {key: overrides.get(key) for key in varied} for overrides, results in jobs]
    columns = [*varied, "status", *(key for key in RESULTS if any(key in row for row in rows))]
    with open(target / "sweep.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    # Jobs are compared by the numbers of dynamic evaluation where there are any, and then without those that have none.
    prefix = DYNAMIC if any(f"{DYNAMIC}loss" in row for row in rows) else ""
    compared = [row for row in rows if f"{prefix}loss" in row]
    best = min(compared, key=lambda row: float(row[f"{prefix}loss"]), default=None)
    _print_table(rows, columns, len(varied), best)
    print(f"Table: {target / 'sweep.csv'}")
    if compared:
        draw_sweep(compared, varied, prefix, target / "sweep.png")
        print(f"Figure: {target / 'sweep.png'}")


def _job_number(path: Path) -> tuple[int, str]:
    name = path.parent.name
    return (int(name) if name.isdigit() else -1, name)


def _read_job(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """A job's overrides, and its results or how it failed."""
    words = [str(word) for word in OmegaConf.load(folder / ".hydra/overrides.yaml")]
    overrides = dict(map(_setting, words))
    results, error = folder / "results.json", folder / "error.txt"
    if error.exists():
        last_line = error.read_text().strip().splitlines()[-1:]  # the others, if there are any, are a traceback
        return overrides, {"status": f"failed: {''.join(last_line)}"}
    if not results.exists():
        return overrides, {"status": "unfinished"}
    return overrides, {"status": "done"} | json.loads(results.read_text())


def _setting(word: str) -> tuple[str, Any]:
    """A word of the command line: its key, which may be a group, and its value, a number where it is one."""
    key, _, value = word.lstrip("+").partition("=")
    typed = OmegaConf.from_dotlist([f"value={value}"]).value
    return key, value if isinstance(typed, DictConfig | ListConfig) else typed


def _varied(jobs: list[dict[str, Any]]) -> list[str]:
    """The settings that differ between jobs, in the order of the command line."""
    keys = list(dict.fromkeys(key for job in jobs for key in job))
    return [key for key in keys if len({str(job.get(key)) for job in jobs}) > 1]


def _print_table(rows: list[dict[str, Any]], columns: list[str], settings: int, best: dict[str, Any] | None) -> None:
    """The first columns are `settings`, printed as they were typed; the others are results."""
    cells = [columns]
    for row in rows:
        typed = [" ".join(str(row[column]).split()) for column in columns[:settings]]
        cells.append(typed + [_cell(row.get(column)) for column in columns[settings:]])
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    for line, shown in zip(cells, [None, *rows]):
        mark = "  <- best" if shown is not None and shown is best else ""
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths)) + mark)


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:,.4f}" if isinstance(value, float) else str(value)

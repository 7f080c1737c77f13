"""The table and the figure of all jobs of a sweep."""

from __future__ import annotations

import atexit
import csv
import json
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, ListConfig, OmegaConf

from tbptt.errors import UserError, denied_files_reported, full_disk_reported
from tbptt.files import replacing
from tbptt.launch.jobs import wait_for_jobs
from tbptt.report.sweep_figure import draw_sweep

UNITS = ("loss", "ppl", "bpc", "word_ppl", "bits_per_byte")
DYNAMIC_PREFIX = "dynamic_"  # of the keys of dynamic evaluation, which are not compared with static evaluation
RESULT_KEYS = (*UNITS, *(DYNAMIC_PREFIX + key for key in UNITS), "tokens", "tokens_per_second", "seconds", "params")


class SweepReport(Callback):
    """Writes the report when the sweep's process exits, so that a failed or interrupted sweep is reported too."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        sweep_dir = Path(config.hydra.sweep.dir)
        wait_for_jobs(sweep_dir, "Waiting for jobs that an earlier start of this sweep submitted:")
        atexit.register(_finish, sweep_dir)


def _finish(sweep_dir: Path) -> None:
    with suppress(KeyboardInterrupt):
        wait_for_jobs(sweep_dir, "Waiting for the other jobs of this sweep:")
    try:
        with denied_files_reported(), full_disk_reported(sweep_dir, "hydra.sweep.dir"):
            report_sweeps([sweep_dir], sweep_dir)
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)


def report_sweeps(sweep_dirs: Sequence[Path], target: Path) -> None:
    """Write sweep.csv and sweep.png for all jobs of these sweeps (or single runs) into `target`; print the table."""
    hydra_dirs = [path for folder in sweep_dirs for path in sorted(folder.glob("*/.hydra"), key=_job_number)]
    hydra_dirs += [folder / ".hydra" for folder in sweep_dirs]
    hydra_dirs = [path for path in hydra_dirs if (path / "overrides.yaml").is_file()]  # else the job did not start
    jobs = [_read_job(path.parent) for path in hydra_dirs]
    if not jobs:
        return
    varied = _varied([overrides for overrides, _ in jobs])
    rows: list[dict[str, Any]] = [results | {key: overrides.get(key) for key in varied} for overrides, results in jobs]
    columns = [*varied, "status", *(key for key in RESULT_KEYS if any(key in row for row in rows))]
    with replacing(target / "sweep.csv", "hydra.sweep.dir") as new, open(new, "w", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    # If any job has a dynamic evaluation, only such jobs are compared, by their dynamic losses.
    prefix = DYNAMIC_PREFIX if any(f"{DYNAMIC_PREFIX}loss" in row for row in rows) else ""
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
    """The overrides of a job, and its results or its error."""
    overrides = dict(_parse_override(str(each)) for each in OmegaConf.load(folder / ".hydra/overrides.yaml"))
    results, error = folder / "results.json", folder / "error.txt"
    if error.exists():
        last_line = error.read_text().strip().splitlines()[-1:]  # lines before it are a traceback
        return overrides, {"status": f"failed: {''.join(last_line)}"}
    if not results.exists():
        return overrides, {"status": "unfinished"}
    return overrides, {"status": "done"} | json.loads(results.read_text())


def _parse_override(override: str) -> tuple[str, Any]:
    """The key (or group) of an override, and its value: a number, a truth value or a string."""
    key, _, value = override.lstrip("+").partition("=")
    typed = OmegaConf.from_dotlist([f"value={value}"]).value
    return key, value if isinstance(typed, DictConfig | ListConfig) else typed


def _varied(jobs: list[dict[str, Any]]) -> list[str]:
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
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths)) + mark)


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:,.4f}" if isinstance(value, float) else str(value)

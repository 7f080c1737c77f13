"""One table and one figure for all jobs of a sweep."""

from __future__ import annotations

import atexit
import csv
import json
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from tbptt.data.config import Level
from tbptt.report.curves import loss_axis

RESULTS = ("loss", "ppl", "bpc", "tokens", "tokens_per_second", "seconds", "params")


class SweepReport(Callback):
    """Reports when the sweep's process ends, so that a failed or interrupted sweep leaves its table too."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        atexit.register(report_sweep, Path(config.hydra.sweep.dir))


def report_sweep(sweep_dir: Path) -> None:
    """Write sweep.csv and sweep.png of the jobs found in `sweep_dir`, and print the table, best row marked."""
    jobs = [_read_job(path.parent) for path in sorted(sweep_dir.glob("*/.hydra"), key=_job_number)]
    if not jobs:
        return
    varied = _varied([overrides for overrides, _ in jobs])
    rows = [{key: overrides.get(key) for key in varied} | results for overrides, results in jobs]
    columns = [*varied, "status", *(key for key in RESULTS if any(key in row for row in rows))]
    with open(sweep_dir / "sweep.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    scored = [row for row in rows if "loss" in row]
    _print_table(rows, columns, best=min(scored, key=_loss, default=None))
    print(f"Table: {sweep_dir / 'sweep.csv'}")
    if scored:
        draw_sweep(scored, varied, sweep_dir / "sweep.png")
        print(f"Figure: {sweep_dir / 'sweep.png'}")


def _loss(row: dict[str, Any]) -> float:
    return row["loss"]


def _job_number(path: Path) -> tuple[int, str]:
    name = path.parent.name
    return (int(name) if name.isdigit() else -1, name)


def _read_job(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """A job's overrides, and its results or how it failed."""
    words = [str(word) for word in OmegaConf.load(folder / ".hydra/overrides.yaml")]
    overrides = _flat(OmegaConf.from_dotlist(words))
    results, error = folder / "results.json", folder / "error.txt"
    if error.exists():
        return overrides, {"status": f"failed: {error.read_text().strip()}"}
    if not results.exists():
        return overrides, {"status": "unfinished"}
    return overrides, {"status": "done"} | json.loads(results.read_text())


def _flat(tree: DictConfig, prefix: str = "") -> dict[str, Any]:
    """Nested overrides as dotted keys."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        key = str(name)
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, DictConfig) else {f"{prefix}{key}": value}
    return flat


def _varied(jobs: list[dict[str, Any]]) -> list[str]:
    """The settings that differ between jobs, in the order of the command line."""
    keys = list(dict.fromkeys(key for job in jobs for key in job))
    return [key for key in keys if len({str(job.get(key)) for job in jobs}) > 1]


def _print_table(rows: list[dict[str, Any]], columns: list[str], best: dict[str, Any] | None) -> None:
    cells = [columns] + [[_cell(row.get(column)) for column in columns] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    for line, row in zip(cells, [None, *rows]):
        mark = "  <- best" if row is not None and row is best else ""
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths)) + mark)


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:,.4f}" if isinstance(value, float) else str(value)


def draw_sweep(rows: list[dict[str, Any]], varied: list[str], target: Path) -> None:
    """The result against the numeric setting with most values, one line per combination of the others."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    key, label = loss_axis(Level[rows[0]["level"]])
    numeric = [k for k in varied if all(type(row[k]) in (int, float) for row in rows)]
    x = max(numeric, key=lambda k: len({row[k] for row in rows}), default=None)
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    if x is None:
        names = ["\n".join(f"{k}={row[k]}" for k in varied) or "the only job" for row in rows]
        axes.plot(names, [row[key] for row in rows], "o")
    else:
        others = [k for k in varied if k != x]
        lines: dict[str, list[tuple[float, float]]] = {}
        for row in rows:
            lines.setdefault(", ".join(f"{k}={row[k]}" for k in others), []).append((row[x], row[key]))
        for name, points in lines.items():
            axes.plot(*zip(*sorted(points)), marker="o", ms=4, label=name or None)
        if others:
            axes.legend()
        axes.set_xticks(sorted({row[x] for row in rows}))
        axes.set_xlabel(x)
    axes.set_ylabel(label)
    axes.grid(alpha=0.3)
    figure.savefig(target, dpi=150)
    plt.close(figure)

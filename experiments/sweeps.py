"""The table and the figure of finished sweeps and runs, drawn again, or several of them together.

python -m experiments.sweeps runs/sweep-1a2b3c4d [runs/sweep-... runs/eval-... ...] [--to FOLDER]
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tbptt.report.members import members_in
from tbptt.report.sweep import report_sweeps


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("sweeps", nargs="+", type=Path)
    parser.add_argument(
        "--to", type=Path, help="where sweep.csv and sweep.png go; the first of the sweeps if not given"
    )
    arguments = parser.parse_args()
    for folder in arguments.sweeps:
        if not members_in(folder):
            parser.error(f"{folder} is no directory of a sweep or of a run")
    target = arguments.to or arguments.sweeps[0]
    target.mkdir(parents=True, exist_ok=True)
    report_sweeps(arguments.sweeps, target)


if __name__ == "__main__":
    main()

"""A page that compares runs and sweeps: python -m tbptt.report RUN [RUN ...] [--output FILE] [--title TEXT]."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tbptt.errors import UserError, denied_files_reported
from tbptt.report.members import RECORDS
from tbptt.report.page import write_page

PAGE = "comparison.html"


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser("python -m tbptt.report", description="Write one page that compares runs.")
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="directory of a run or of a sweep")
    parser.add_argument(
        "--output", type=Path, metavar="FILE",
        help=f"the page; if not given, {PAGE} in the directory of the sweep if that is all, else in the current one",
    )  # fmt: skip
    parser.add_argument("--title", help="of the page")
    given = parser.parse_args(words)
    alone = given.runs[0] if len(given.runs) == 1 and (given.runs[0] / RECORDS).is_dir() else Path()
    output = given.output or alone / PAGE
    try:
        with denied_files_reported():
            write_page(given.runs, output, given.title)
    except UserError as error:
        sys.exit(f"Error: {error}")
    print(f"Comparison: {output}")


if __name__ == "__main__":
    main()

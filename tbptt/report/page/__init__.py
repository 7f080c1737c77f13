"""A page that compares runs: one HTML file, which opens from the disk and needs no network."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from tbptt.errors import UserError
from tbptt.files import replacing
from tbptt.report.page.charts import curve_panels, position_panels
from tbptt.report.page.runs import Run, read_runs
from tbptt.report.page.scores import compare_scores
from tbptt.report.page.settings import ABSENT, compare_settings, describe, upright
from tbptt.report.page.text import breakable, concealed, fixed, whole

TEMPLATE = Path(__file__).parent / "template"
COLOURS = 8  # in page.css; from the ninth run on, lines are dashed
LONGEST = 4000  # characters of a sample that are shown


def write_page(folders: Sequence[Path], output: Path, title: str | None = None) -> None:
    """Write the comparison of these directories of runs or of sweeps into the file `output`.

    UserError, and no file, if there is none to compare or one of them cannot be read.
    """
    if output.is_dir() or not output.parent.is_dir():
        raise UserError(f"--output={output} must be a file in a folder that exists")
    page = render(
        read_runs(folders), title or f"Comparison of {', '.join(folder.resolve().name for folder in folders)}"
    )
    with replacing(output, "--output") as new:
        new.write_text(page, encoding="utf-8", errors="backslashreplace")


def render(runs: Sequence[Run], title: str) -> str:
    """The page as text."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATE), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False}  # in the order given
    environment.filters |= {"whole": whole, "fixed": fixed, "breakable": breakable, "concealed": concealed}
    script = (TEMPLATE / "page.js").read_text(encoding="utf-8")
    panels = [*curve_panels(runs), *position_panels(runs)]
    numbers = {id(run): number for number, run in enumerate(runs)}
    descriptions = describe(runs)
    return environment.get_template("page.html").render(
        title=title,
        runs=runs,
        letter=lambda run: letter(numbers[id(run)]),
        colour=lambda run: numbers[id(run)] % COLOURS,
        describe=lambda run: descriptions[numbers[id(run)]],
        scores=compare_scores(runs),
        panels=panels,
        data={"runs": [_for_script(number, run) for number, run in enumerate(runs)]}
        | {"panels": [panel.data() for panel in panels]},
        settings=compare_settings(runs),
        absent=ABSENT,
        upright=upright,
        generated=[run for run in runs if run.results.get("continuations")],
        longest=LONGEST,
        failed=[run for run in runs if run.error],
        script=script,
        digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def letter(number: int) -> str:
    """A, B, ... Z, AA, AB, ..., for run 0, 1, ..."""
    return (letter(number // 26 - 1) if number >= 26 else "") + chr(ord("A") + number % 26)


def _for_script(number: int, run: Run) -> dict[str, Any]:
    return {"letter": letter(number), "name": run.name, "colour": number % COLOURS, "dash": number // COLOURS}

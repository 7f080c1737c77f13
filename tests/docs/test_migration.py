"""Every word of ours on the migration page is one the command line takes."""

import re
from pathlib import Path

import pytest

from tests.helpers import composed

PAGE = (Path(__file__).parents[2] / "docs/migration.md").read_text()
CELLS = [row.split(" | ")[1] for row in PAGE.splitlines() if row.startswith("| ") and row.count(" | ") >= 2]
CODES = [code.removeprefix("python run.py ") for cell in CELLS for code in re.findall("`(.*?)`", cell)]
OURS = sorted({code for code in CODES if re.match(r"[a-z_.]+=", code) and not code.startswith("hydra.")})


@pytest.mark.parametrize("settings", OURS)
def test_every_setting_is_one(settings):
    composed(*settings.split())


def test_the_page_was_found_to_hold_them():
    assert len(OURS) > 25

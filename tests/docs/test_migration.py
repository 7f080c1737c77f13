"""Every word of ours on the migration page is one the command line takes."""

import re
from pathlib import Path

import pytest

from tests.helpers import composed

PAGE = (Path(__file__).parents[2] / "docs/MIGRATION.md").read_text()
COMMANDS = [line.split()[2:] for line in PAGE.splitlines() if line.startswith("python run.py")]
CELLS = [row.split(" | ")[1] for row in PAGE.splitlines() if row.startswith("| ") and row.count(" | ") >= 2]
WORDS = [word for cell in CELLS for code in re.findall("`(.*?)`", cell) for word in code.split()]
OURS = sorted({word for word in WORDS if re.match(r"[a-z_.]+=", word) and not word.startswith("hydra.")})


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_is_understood(words):
    composed(*words)


@pytest.mark.parametrize("word", OURS)
def test_every_setting_is_one(word):
    composed(word)


def test_the_page_was_found_to_hold_them():
    assert len(COMMANDS) == 5 and len(OURS) > 30

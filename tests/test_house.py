"""The house is in order: lint, format and types are clean, and CI runs what the README tells a person to run."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("check", [["ruff", "check"], ["ruff", "format", "--check"], ["mypy"]])
def test_code_is_clean(check):
    result = subprocess.run([sys.executable, "-m", *check], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_ci_runs_the_command_of_the_readme():
    last_line = (ROOT / ".ci/run").read_text().splitlines()[-1]
    assert last_line in (ROOT / "README.md").read_text().splitlines()

"""Lint, format, types and layers are clean, and CI runs what the README tells a person to run."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("check", [["ruff", "check"], ["ruff", "format", "--check"], ["mypy"], ["lint-imports"]])
def test_code_is_clean(check):
    command = [str(Path(sys.executable).with_name(check[0])), *check[1:]]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_ci_runs_the_command_of_the_readme():
    last_line = (ROOT / ".ci/run").read_text().splitlines()[-1]
    assert last_line in (ROOT / "README.md").read_text().splitlines()


def test_no_room_imports_one_above_it():
    """Nor one beside it that imports it back; `lint-imports` knows the order, this needs none."""
    printed = subprocess.run(
        [sys.executable, "-m", "experiments.rooms"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert ", 0 imports that run upwards" in printed.splitlines()[0]

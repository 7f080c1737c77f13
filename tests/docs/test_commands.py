"""Commands and paths in the documentation are ones that exist."""

import re
import shlex
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from tbptt.cli.config import register
from tests.helpers import CONF

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
EXAMPLES = set(re.findall(r'title="(.*?)"', (ROOT / "docs/extending.md").read_text()))  # files that a reader adds
OPTIONAL = {"conf/local/default.yaml", "conf/model/imported.yaml"}  # the second is of a run directory
COMMAND = re.compile(r"^(?:torchrun \S+|(?:srun )?python) run\.py\b(.*)$", re.MULTILINE)
FOLDERS = "conf|docs|experiments|tbptt|tests"


def commands() -> set[str]:
    found = {match.strip() for page in PAGES for match in COMMAND.findall(page.read_text().replace("\\\n", " "))}
    added = {Path(path).stem for path in EXAMPLES}
    return {
        words
        for words in found
        if not any(re.search(rf"[=\[]{name}\b", words) for name in added) and "..." not in words
    }


@pytest.mark.parametrize("command", sorted(commands()))
def test_every_command_is_understood(command):
    command = re.sub(r"--config-dir \S+ model=imported", "model=mamba2_130m", command)  # an import writes it
    if "data=documents" in command and not (CONF / "data/documents.yaml").is_file():
        pytest.skip("there is no data=documents")
    words = [word for word in shlex.split(command, comments=True) if word != "-m"]
    if {"--help", "--cfg"} & set(words):
        return
    register()
    with initialize_config_dir(str(CONF), version_base=None):
        compose("config", [first_value(word) for word in words], return_hydra_config=True)


def first_value(word: str) -> str:
    """Of a sweep's values or of a search's interval; a text or a list stays as it is."""
    key, _, value = word.partition("=")
    if interval := re.search(r"interval\((.*?),", value):
        return f"{key}={interval[1]}"
    if key == "prompt":
        return f'prompt="{value}"'
    return word if "[" in value or "{" in value else f"{key}={value.split(',')[0]}"


def test_commands_were_found():
    assert len(commands()) > 40


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_path_exists(page):
    text = page.read_text()
    paths = set(re.findall(rf"`((?:{FOLDERS})/[\w./-]*)`", text)) - EXAMPLES - OPTIONAL
    paths -= {path for path in paths if "NAME" in path or path.startswith("tbptt/models/mixers")}
    assert not [path for path in paths if not (ROOT / path).exists()]
    modules = set(re.findall(r"python -m (experiments\.\w+)", text))
    assert not [module for module in modules if not (ROOT / f"{module.replace('.', '/')}.py").exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_lines_are_short(page):
    assert not [line for line in page.read_text().splitlines() if len(line) > 120]


def test_the_readme_fits_on_a_page():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120

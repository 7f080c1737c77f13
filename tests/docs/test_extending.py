"""The examples of docs/extending.md work as they stand, in a copy of the project; so does the script of docs/api."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import environment, make_home

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r'^```(\w+) title="(.*?)"\n(.*?)^```$', re.MULTILINE | re.DOTALL)
SMALL = [
    "data.batch_size=4",
    "data.min_count=2",
    "model.d_model=16",
    "model.tgt_len=16",
    "trainer.max_steps=20",
    "eval.max_tokens=200",
]


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A copy of the project with all examples in it, and a small corpus beside it."""
    home = tmp_path_factory.mktemp("home")
    for name in ("tbptt", "conf"):
        shutil.copytree(ROOT / name, home / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("run.py", "pyproject.toml"):
        shutil.copy(ROOT / name, home / name)
    for language, name, content in BLOCK.findall((ROOT / "docs/extending.md").read_text()):
        path = home / name
        if language == "diff":
            path.write_text(changed(path.read_text(), content, name))
        else:
            assert not path.exists(), f"{name} exists already: the example needs another name"
            path.write_text(content)
    make_home(home)
    for split in ("train", "valid", "test"):
        shutil.copy(home / f"text/{split}.txt", home / f"text/shakespeare.{split}.txt")
    return home


def changed(text: str, diff: str, name: str) -> str:
    """The text after a diff of one place, which has no line numbers."""
    lines = diff.splitlines(keepends=True)
    before = "".join(line[1:] for line in lines if line[0] in " -")
    after = "".join(line[1:] for line in lines if line[0] in " +")
    assert text.count(before) == 1, f"docs/extending.md: {name} does not have once:\n{before}"
    return text.replace(before, after)


def python(project: Path, *words: str, program: str = sys.executable) -> str:
    env = environment(project) | {"PYTHONPATH": str(project)}
    result = subprocess.run([program, *words], cwd=project, env=env, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def trained(project) -> Path:
    """One run of the model on the corpus, with the logger, as the experiment says."""
    example = ["model=gru", "data=shakespeare", "data.path=text", "logger=csv", "experiment=quick"]
    python(project, "run.py", *example, *SMALL, "hydra.run.dir=RUN")
    return project / "RUN"


def test_the_examples_train_together(trained):
    lines = (trained / "losses.csv").read_text().splitlines()
    assert [line.split(",")[:2] for line in lines] == [["10", "train"], ["20", "train"], ["20", "valid"]]
    assert (trained / "results.json").is_file() and (trained / "checkpoints/best").exists()


def test_the_launcher_has_its_settings(project):
    words = ["run.py", "hydra/launcher=mycluster", "--cfg", "hydra", "--package", "hydra.launcher"]
    shown = python(project, *words)
    assert "account: group" in shown and "gpus_per_node: 4" in shown and "kill-on-bad-exit" in shown


def test_the_rooms_are_kept(project):
    assert "0 broken" in python(project, "--no-cache", program=str(Path(sys.executable).with_name("lint-imports")))


def test_the_script_scores_the_run(trained):
    script = re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs/api/index.md").read_text(), re.MULTILINE | re.DOTALL)[
        1
    ]
    printed = python(trained.parent, "-c", script)
    assert float(printed.split()[0]) > 0 and "'batch_size'" in printed

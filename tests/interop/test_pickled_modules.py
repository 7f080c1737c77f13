"""A pickled module is refused with a command that turns it into a state dict, wherever its class and its file lie."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tbptt.errors import UserError
from tbptt.interop.importing import read
from tests.interop.foreign_files import imported_from

SOURCE = """
from torch import nn
import torch
class Whole(nn.Module):
    def __init__(self):
        super().__init__()
        self.part = Part()
class Part(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
"""


@pytest.fixture
def code(tmp_path, monkeypatch):
    """A folder with the modules that define the class, which exist nowhere else and not after the test."""
    folder = tmp_path / "code"
    (folder / "package").mkdir(parents=True)
    for name in ("mem_transformer.py", "package/__init__.py", "package/models.py"):
        (folder / name).write_text(SOURCE)
    monkeypatch.syspath_prepend(str(folder))
    yield folder
    for name in ("mem_transformer", "package", "package.models"):
        sys.modules.pop(name, None)


def made(module: str) -> torch.nn.Module:
    return __import__(module, fromlist=["Whole"]).Whole()


def refusal(path: Path, most: int = 800) -> str:
    with pytest.raises(UserError) as refused:
        read(imported_from("original", path))
    said = str(refused.value)
    assert "\n" not in said and len(said) < most
    return said


def run_printed_line(said: str, folder: Path) -> None:
    """Run what stands between the backticks, as somebody who copies it into a shell."""
    (line,) = [part for part in said.split("`") if part.startswith("python -c ")]
    shell = f'python() {{ {sys.executable} "$@"; }}; {line}'
    done = subprocess.run(["bash", "-c", shell], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "kind, zipped", [("module", True), ("module", False), ("entry", True), ("entry", False), ("parallel", True)]
)
def test_the_printed_line_works_in_the_folder_it_names(tmp_path, code, kind, zipped):
    """The state dict lies beside the module: there, an import finds the optimizer's state and the log."""
    checkpoints = tmp_path / 'it\'s a "run" for $HOME'
    checkpoints.mkdir()
    name = {"module": "mem_transformer", "entry": "package.models", "parallel": "mem_transformer"}[kind]
    module = made(name)
    saved = {"module": module, "parallel": torch.nn.DataParallel(module), "entry": {"model": module, "step": 3}}[kind]
    torch.save(saved, checkpoints / "model.pt", _use_new_zipfile_serialization=zipped)
    said = refusal(checkpoints / "model.pt")
    where = {"module": "mem_transformer.py", "entry": "package", "parallel": "code that trained it"}[kind]
    assert where in said.split("`")[0]
    run_printed_line(said, code)
    weights = torch.load(checkpoints / "state_dict.pt", weights_only=True)
    weights = weights["model"] if kind == "entry" else weights
    prefix = "module." if kind == "parallel" else ""
    assert torch.equal(weights[f"{prefix}part.weight"], torch.ones(2))
    with pytest.raises(UserError, match=r"does not hold the model's settings|lack"):  # it is read as a state dict now
        read(imported_from("original", checkpoints / "state_dict.pt"))


def test_a_class_of_a_script_is_imported_from_it(tmp_path, code):
    (code / "train.py").write_text(SOURCE + f"\ntorch.save(Whole(), {str(tmp_path / 'model.pt')!r})\n")
    subprocess.run([sys.executable, str(code / "train.py")], check=True)
    said = refusal(tmp_path / "model.pt")
    assert "__main__.Whole" in said and "put its name for SCRIPT" in said
    run_printed_line(said.replace("from SCRIPT", "from train"), code)
    assert (tmp_path / "state_dict.pt").is_file()


def test_in_a_folder_that_may_not_be_written_to_nothing_is(tmp_path, code, monkeypatch):
    """The state dict goes into a new folder, and what an import looks for beside it is copied there."""
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    theirs.mkdir()
    ours.mkdir()
    torch.save(made("mem_transformer"), theirs / "model.pt")
    torch.save({"state": {}}, theirs / "optimizer.pt")
    before = sorted(theirs.iterdir())
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != theirs)
    monkeypatch.chdir(ours)
    run_printed_line(refusal(theirs / "model.pt", most=1000), code)
    assert sorted(theirs.iterdir()) == before
    assert {path.name for path in (ours / "theirs_state_dict").iterdir()} == {"state_dict.pt", "optimizer.pt"}


def test_a_module_named_as_the_state_dict_is_not_overwritten(tmp_path, code):
    torch.save(made("mem_transformer"), tmp_path / "state_dict.pt")
    assert f"{tmp_path / 'weights.pt'}')\"`" in refusal(tmp_path / "state_dict.pt")

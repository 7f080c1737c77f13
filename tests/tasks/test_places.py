"""Where things are is decided here and now: by this environment and folder, not by those of the training."""

import json
import os
import shutil
import tempfile
from pathlib import Path

import pytest

from tbptt.cli.directories import check_writable, only_process
from tbptt.errors import UserError
from tbptt.tasks import check
from tests.commands import ROOT, SMALL, environment, make_home, numbers_of, run, train
from tests.forked_commands import run_forked
from tests.helpers import composed, user

pytestmark = pytest.mark.slow
ONLY_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")
WORDS = [word for word in SMALL if not word.startswith("data.level")] + ["data.level=word", "trainer.max_steps=6"]
VOCABULARY = ["data.vocabulary=words.txt", "scheduler.warmup_steps=1"]


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A working directory with two runs in it: `trained` on bytes, `words` on the words of a list."""
    folder = make_home(tmp_path_factory.mktemp("home"))
    train(folder, "hydra.run.dir=trained")
    (folder / "words.txt").write_text("<eos>\n<unk>\nthe\nself\n")
    run(folder, *WORDS, *VOCABULARY, "hydra.run.dir=words")
    return folder


def run_elsewhere(folder: Path, cache: Path, *words: str, code: int = 0) -> str:
    """A command in another folder, with another cache."""
    command = [str(ROOT / "run.py"), *words]
    returned, printed = run_forked(command, folder, environment(folder) | {"TBPTT_CACHE": str(cache)})
    assert returned == code, printed
    return printed


def loss_of(run_dir: Path) -> float:
    return json.loads((run_dir / "results.json").read_text())["loss"]


def everything_in(folder: Path) -> dict[Path, tuple[int, int]]:
    return {path: (path.lstat().st_ino, path.lstat().st_mtime_ns) for path in folder.rglob("*")}


@pytest.mark.parametrize("name", ["trained", "words"])
def test_an_evaluation_prepares_in_the_cache_of_this_machine(home, tmp_path, name):
    before = everything_in(home)
    run_elsewhere(tmp_path, tmp_path / "here", "task=eval", f"checkpoint={home / name}", "hydra.run.dir=e")
    assert loss_of(tmp_path / "e") == pytest.approx(loss_of(home / name), rel=1e-6)
    assert list((tmp_path / "here").glob("text-*/meta.json")) and everything_in(home) == before


def test_a_run_that_moved_finds_its_corpus_by_the_path_that_was_typed(home, tmp_path):
    there, here = tmp_path / "there", tmp_path / "here"
    shutil.copytree(home / "text", there / "text")
    shutil.copyfile(home / "words.txt", there / "words.txt")
    run_elsewhere(there, tmp_path / "cache", *WORDS, *VOCABULARY, "hydra.run.dir=words")
    there.rename(here)
    run_elsewhere(here, tmp_path / "cache 2", "task=eval", "checkpoint=words", "hydra.run.dir=e")
    (here / "words.txt").unlink()  # the run has its own copy
    words = ["task=eval", "checkpoint=words", "data.min_count=1", "hydra.run.dir=f"]
    run_elsewhere(here, tmp_path / "cache 3", *words)
    assert loss_of(here / "e") == loss_of(here / "f") == pytest.approx(loss_of(here / "words"), rel=1e-6)
    printed = run_elsewhere(tmp_path, tmp_path / "cache", "task=eval", f"checkpoint={here}/words", code=1)
    assert f"data.path={there}/text does not exist" in printed and "Traceback" not in printed


def test_another_text_under_the_recorded_path_is_told_of(home, tmp_path):
    shutil.copytree(home / "text", tmp_path / "text")
    run_elsewhere(tmp_path, tmp_path / "cache", *SMALL, "trainer.max_steps=6", "hydra.run.dir=r")
    words = ["task=eval", "checkpoint=r", "eval.max_tokens=50"]
    assert "its training text differs" not in run_elsewhere(tmp_path, tmp_path / "cache", *words)
    (tmp_path / "text/train.txt").write_text("another text\n" * 100)
    words.append("eval.mem_len=3")
    assert "its training text differs" in run_elsewhere(tmp_path, tmp_path / "cache", *words)


def test_reading_a_run_writes_nothing_to_it_or_to_the_cache(home, tmp_path):
    before = everything_in(home)
    for words in (
        ["task=eval", f"checkpoint={home}/trained"],
        ["task=generate", f"checkpoint={home}/words", "prompt=the", "generate.length=3"],
        ["task=export", f"checkpoint={home}/trained", "export.format=safetensors", "export.path=exported"],
        [*SMALL[:-2], f"data.path={home}/text", "data.batch_size=4", f"checkpoint={home}/trained", "hydra.run.dir=r"],
    ):
        run_elsewhere(tmp_path, home / "cache", *words)
    assert everything_in(home) == before


@pytest.mark.parametrize("more", [[], ["-m", "hydra.sweep.dir=r", "hydra.sweep.subdir=."]])
def test_relative_paths_are_those_of_the_command_whatever_the_folder_of_the_job(home, tmp_path, more):
    shutil.copytree(home / "text", tmp_path / "text")
    words = [*more, *SMALL, "hydra.job.chdir=true", "hydra.run.dir=r"]
    run_elsewhere(tmp_path, Path("cache"), *words)
    run_elsewhere(tmp_path, Path("cache"), "task=eval", "checkpoint=r", "hydra.job.chdir=true", "hydra.run.dir=e")
    assert numbers_of(tmp_path / "r") == numbers_of(home / "trained")
    assert loss_of(tmp_path / "e") == pytest.approx(loss_of(home / "trained"), rel=1e-6)
    assert {path.name for path in tmp_path.iterdir()} == {"text", "cache", "r", "e"}


def test_the_encoding_of_the_screen_changes_no_file(home, tmp_path):
    (tmp_path / "own.txt").write_text("the \u732b self\n", encoding="utf-8")
    words = ["task=eval", f"checkpoint={home}/words", "data=text", "data.path=own.txt", "hydra.run.dir=e"]
    printed = run(home, *words, cwd=tmp_path, LC_ALL="C", PYTHONUTF8="0", PYTHONIOENCODING="ascii")
    assert "'\\u732b'" in printed and "Traceback" not in printed and "Logging error" not in printed
    assert "'\u732b') are unknown to the run" in (tmp_path / "e/run.log").read_text(encoding="utf-8")


def test_a_run_directory_that_cannot_be_written_is_refused_before_anything_is(home, tmp_path):
    (tmp_path / "file").touch()
    for key, words in (("hydra.run.dir", []), ("hydra.sweep.dir", ["-m"])):
        printed = run_elsewhere(tmp_path, home / "cache", *words, f"{key}=file/below", code=1)
        assert printed == f"Error: {key}=file/below: {tmp_path}/file is not a folder; choose another {key}\n"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@ONLY_ROOT
@pytest.mark.parametrize(
    "words, said",
    [
        ("task=eval checkpoint=PLACE/secret/r", "secret/r/.* may not be read"),
        ("task=eval checkpoint=PLACE data=text data.path=PLACE/secret/t", "secret/t may not be read"),
        ("task=import import.format=hf import.path=PLACE/secret/r", "secret/r may not be read"),
        ("data=text data.path=PLACE/secret/t", "secret/t may not be read"),
        ("data=text data.path=PLACE/secret", "secret may not be read"),
        ("eval.save_losses=PLACE/secret/losses", "eval.save_losses=.*secret may not be written"),
        ("task=export checkpoint=PLACE export.format=hf export.path=PLACE/new", "export.path=.*new: .* not be written"),
    ],
)
def test_what_may_not_be_read_or_written_is_refused_before_anything_is(words, said):
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        Path(place, "secret").mkdir(mode=0o700)
        Path(place, "checkpoint.json").touch()
        config = composed(*words.replace("PLACE", place).split())
        with user(5001), pytest.raises(UserError, match=f"{said}.*"):
            check(config)


@ONLY_ROOT
def test_a_run_directory_of_another_user_is_refused_or_shared(tmp_path, monkeypatch):
    monkeypatch.chdir("/")  # the folders above are root's alone
    folder = tmp_path / "run"
    folder.mkdir()
    folder.chmod(0o775)
    with only_process(folder):
        assert (folder / "run.lock").stat().st_mode & 0o777 == 0o664
        with pytest.raises(UserError, match="another process is training"), only_process(folder):
            pass
    check_writable(folder / "new/run", "hydra.run.dir")
    with user(5001), pytest.raises(UserError, match=r"run\.dir=/etc/run: /etc may not be written; choose another"):
        check_writable(Path("/etc/run"), "hydra.run.dir")

"""A file that may not be read is called so, wherever it is read: it is not damaged, not missing and not made anew."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tbptt.data.config import Level
from tbptt.data.language import load_language
from tbptt.data.prepare import open_corpus
from tbptt.data.vocabulary import byte_vocabulary, read_vocabulary_file
from tbptt.errors import UserError, denied_files_reported
from tbptt.interop.foreign import read_vocabulary
from tbptt.interop.importing import read
from tbptt.report.results import read_results
from tbptt.tasks import check
from tbptt.training.checkpoints import Checkpoints, find_checkpoint, locate_checkpoint
from tests.data.small_corpora import corpus_config, write_corpus
from tests.helpers import composed
from tests.interop.foreign_files import GOLDEN_HF, HF_NAME, imported_from, original_file
from tests.refusing_disks import open_folder, unprivileged
from tests.training.saved_runs import saved_run, whole_step


@pytest.fixture
def folder() -> Iterator[Path]:
    with open_folder() as folder:
        yield folder


def opened_by_all(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o777 if path.is_dir() else 0o666)


def refusal(path: Path, call: Callable[[], object]) -> str:
    """What is said of `path` where it, and it alone, may not be read."""
    mode = path.stat().st_mode
    path.chmod(0)
    with unprivileged(), pytest.raises(UserError) as refused, denied_files_reported():
        call()
    path.chmod(mode)
    said = str(refused.value)
    assert str(path) in said and "may not be read" in said and "Permission denied" in said
    assert "damaged" not in said and "missing" not in said
    return said


@pytest.mark.parametrize("name", ["model.safetensors", "training.pt", "checkpoint.json", "SHA256SUMS"])
def test_a_checkpoint_is_not_passed_over_for_an_older_one(folder, name):
    checkpoints = saved_run(folder)
    opened_by_all(folder)
    path = checkpoints.folder / "step_00000002" / name
    assert f"checkpoint {path.parent} may not be read" in refusal(path, checkpoints.newest)
    refusal(path, lambda: find_checkpoint(str(folder / "last")))
    assert whole_step(checkpoints.newest()) == 2


def test_a_folder_of_checkpoints_is_not_taken_for_none(folder):
    checkpoints = saved_run(folder)
    opened_by_all(folder)
    refusal(checkpoints.folder, lambda: locate_checkpoint(str(folder)))
    refusal(checkpoints.folder, checkpoints.newest)
    refusal(checkpoints.folder, lambda: Checkpoints(checkpoints.folder).exist())
    checkpoints.folder.chmod(0o711)  # its files may be read, but it cannot be listed
    with unprivileged(), pytest.raises(UserError, match="may not be read"), denied_files_reported():
        checkpoints.newest()
    refusal(checkpoints.folder / "step_00000001", lambda: check(composed("task=export", f"checkpoint={folder}")))


def prepared(folder: Path) -> Path:
    config = corpus_config(write_corpus(folder / "text"), cache=str(folder / "cache"))
    return Path(shutil.copytree(open_corpus(config).folder, folder / "prepared"))


@pytest.mark.parametrize("name", ["meta.json", "vocabulary.json", "train.bin"])
def test_token_files_are_not_damaged_and_another_users_are_left_as_they_are(folder, name, caplog):
    moved = prepared(folder)
    (cached,) = (folder / "cache").glob("text-*/meta.json")
    opened_by_all(folder)
    refusal(moved / name, lambda: open_corpus(corpus_config(moved)))
    before = cached.stat().st_mtime_ns
    config = corpus_config(folder / "text", cache=str(folder / "cache"))
    cached.with_name(name).chmod(0)
    with unprivileged():  # another user's corpus, who keeps it to themselves: this user's is prepared beside it
        assert open_corpus(config).folder != cached.parent
    assert cached.stat().st_mtime_ns == before and "damaged" not in caplog.text


@pytest.mark.parametrize("name", ["train.txt", ".", "valid", "valid/more"])
def test_texts_are_not_missing_and_no_part_of_them_is_left_out(folder, name):
    text = write_corpus(folder / "text")
    (text / "valid.txt").unlink()
    (text / "valid/more").mkdir(parents=True)
    for part in ("valid/1.txt", "valid/more/2.txt"):
        (text / part).write_text("a b\n")
    opened_by_all(folder)
    config = corpus_config(text, cache=str(folder / "cache"))
    refusal(text / name, lambda: (check(composed("data=text", f"data.path={text}")), open_corpus(config)))


def test_vocabularies_are_not_invalid(folder):
    for name in ("vocab.txt", "dict.txt", "vocab.pkl", "vocab.bin", "vocabulary.json"):
        path = folder / name
        path.write_bytes(b"a 1\n")
        refusal(path, lambda path=path: read_vocabulary(path))
    refusal(folder / "vocab.txt", lambda: read_vocabulary_file(folder / "vocab.txt", Level.word))
    refusal(folder / "vocabulary.json", lambda: load_language(folder, byte_vocabulary().sha256, lower=False))
    words = ["data=text", f"data.path={write_corpus(folder / 'text')}", f"data.vocabulary={folder / 'vocab.txt'}"]
    refusal(folder / "vocab.txt", lambda: check(composed(*words)))


def test_checkpoints_of_other_systems_are_not_damaged(folder):
    shutil.copytree(GOLDEN_HF / HF_NAME, folder / "hf")
    config = original_file(folder / "weights.npz", "a_plain")
    for name in ("weights.pt", "old.pt"):
        torch.save({"a": torch.zeros(2)}, folder / name, _use_new_zipfile_serialization=name != "old.pt")
    save_file({"a": torch.zeros(2)}, folder / "weights.safetensors")
    opened_by_all(folder)
    for name in ("config.json", "model.safetensors"):
        refusal(folder / "hf" / name, lambda: read(imported_from("hf", folder / "hf")))
    for name in ("weights.npz", "weights.pt", "old.pt", "weights.safetensors"):
        refusal(folder / name, lambda name=name: read(imported_from("original", folder / name, config=config.config)))
    refusal(Path(config.config), lambda: read(config))


def test_results_are_not_taken_for_none(folder):
    (folder / "results.json").write_text("{}")
    refusal(folder / "results.json", lambda: read_results(folder))


def test_modes_count_here(folder):
    """Else no test in this file shows anything."""
    (folder / "file").touch(0)
    with unprivileged(), pytest.raises(PermissionError):
        open(folder / "file").close()
    assert os.geteuid() != 65534

"""Where files lie is no part of a run, or of a prepared corpus: both go on after they have moved."""

import os
import shutil
from pathlib import Path

import pytest

from tbptt.cli.config import Config
from tbptt.data.config import DataConfig, Level
from tbptt.data.prepare import open_corpus
from tbptt.errors import UserError
from tbptt.evaluation.config import EvalConfig
from tbptt.launch.world import World
from tbptt.models.lstm import LSTMConfig
from tbptt.tasks import train
from tbptt.training.checkpoints import find_checkpoint
from tbptt.training.config import TrainerConfig
from tbptt.training.optimizers import AdamConfig
from tbptt.training.schedules import ConstantConfig
from tests.data.small_corpora import corpus_config, decoded, words_of, write_corpus

TEXT = "to be or not to be\n" * 9


def train_until(max_steps: int, data: DataConfig, run_dir: Path) -> None:
    data.batch_size = 2
    model = LSTMConfig(n_layer=1, d_model=4, tgt_len=5)
    trainer = TrainerConfig(max_steps=max_steps, device="cpu")
    eval_config, optimizer, scheduler = EvalConfig(batch_size=1), AdamConfig(), ConstantConfig()
    groups = {"data": data, "model": model, "optimizer": optimizer, "scheduler": scheduler, "trainer": trainer}
    train.run(Config(**groups, eval=eval_config), run_dir, World())


@pytest.mark.parametrize("moved", ["nothing", "cache", "corpus"])
def test_a_run_continues_after_its_files_have_moved(tmp_path, caplog, moved):
    here, run_dir = write_corpus(tmp_path / "here", TEXT, TEXT, TEXT), tmp_path / "run"
    run_dir.mkdir()
    train_until(2, corpus_config(here, Level.char), run_dir)
    data = corpus_config(here.rename(tmp_path / "there") if moved == "corpus" else here, Level.char)
    if moved == "cache":
        data.cache = str(tmp_path / "other cache")
    with caplog.at_level("INFO"):
        train_until(3, data, run_dir)
    assert "Continuing from step 2" in caplog.text
    assert (run_dir / "checkpoints" / "step_00000003").is_dir()


def test_a_run_that_was_copied_without_links_ends_like_the_other(tmp_path, caplog):
    data, run_dir = corpus_config(write_corpus(tmp_path / "text", TEXT, TEXT, TEXT), Level.char), tmp_path / "run"
    run_dir.mkdir()
    train_until(2, data, run_dir)
    shutil.copytree(run_dir, tmp_path / "folders")
    shutil.copytree(run_dir, tmp_path / "nothing", ignore=shutil.ignore_patterns("last", "best"))
    for folder in (run_dir, tmp_path / "folders", tmp_path / "nothing"):
        caplog.clear()
        with caplog.at_level("INFO"):
            train_until(4, data, folder)
        assert "Continuing from step 2" in caplog.text
        assert {path.name for path in (folder / "checkpoints").iterdir() if path.is_symlink()} == {"last", "best"}
        for name in ("last", "best"):
            ours, theirs = find_checkpoint(str(folder / name)), find_checkpoint(str(run_dir / name))
            assert (ours.folder / "model.safetensors").read_bytes() == (
                theirs.folder / "model.safetensors"
            ).read_bytes()


def test_the_files_of_a_run_and_of_its_cache_have_the_mode_that_the_umask_gives(tmp_path):
    data, run_dir = (
        corpus_config(write_corpus(tmp_path / "text", TEXT, TEXT, TEXT), Level.bpe, bpe_size=257),
        tmp_path / "run",
    )
    before = os.umask(0o002)
    try:
        run_dir.mkdir()
        train_until(2, data, run_dir)
    finally:
        os.umask(before)
    files = [path for folder in (run_dir, Path(data.cache)) for path in folder.rglob("*") if path.is_file()]
    assert {path.name: path.stat().st_mode & 0o777 for path in files} == {path.name: 0o664 for path in files}


@pytest.fixture
def moved(tmp_path) -> DataConfig:
    """Token files of words that were prepared elsewhere; neither their source nor that cache exists any more."""
    here, there = write_corpus(tmp_path / "here", TEXT, TEXT, TEXT), tmp_path / "there"
    shutil.copytree(open_corpus(corpus_config(here)).folder, there)
    shutil.rmtree(here)
    return corpus_config(there)


def test_token_files_open_without_their_source(moved):
    corpus = open_corpus(moved)
    assert decoded(corpus, "train") == words_of(TEXT)
    assert not Path(moved.cache).exists(), "something was prepared anew"
    moved.verify = True
    assert open_corpus(moved).identity() == corpus.identity()


@pytest.mark.parametrize(
    "settings, said",
    [
        ({"level": Level.char}, "level is word, not char"),
        ({"lower": True}, "lower is False, not True"),
        ({"min_count": 2, "max_vocab": 5}, "min_count is 1, not 2; max_vocab is None, not 5"),
        ({"name": "ptb"}, "name is text, not ptb"),
    ],
)
def test_token_files_of_other_settings_are_refused(moved, settings, said):
    for key, value in settings.items():
        setattr(moved, key, value)
    with pytest.raises(UserError, match=f"other settings: {said}"):
        open_corpus(moved)


@pytest.mark.parametrize("name", ["train.bin", "test.bin", "vocabulary.json", "meta.json"])
def test_truncated_token_files_are_refused(moved, name):
    path = Path(moved.path, name)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match="damaged"):
        open_corpus(moved)


@pytest.mark.parametrize("name", ["train.bin", "valid.bin", "test.bin"])
def test_altered_token_files_are_refused_when_read_through(moved, name):
    path = Path(moved.path, name)
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    open_corpus(moved)
    moved.verify = True
    with pytest.raises(UserError, match=rf"{name} is not as it was written"):
        open_corpus(moved)

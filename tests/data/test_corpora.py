"""Corpora by name find their files, and what is wrong with them is said in one sentence that names the key."""

import os
import sysconfig
from pathlib import Path

import pytest

from tbptt.data.config import DataConfig, Level
from tbptt.data.corpora import SPLITS, corpus_named
from tbptt.data.prepare import open_corpus
from tbptt.errors import UserError
from tests.data.small_corpora import TEXT, corpus_config, decoded, words_of, write_corpus


def test_unknown_words_are_counted_and_read_as_unk(tmp_path):
    corpus = open_corpus(corpus_config(write_corpus(tmp_path, "a <unk> b\n", "a x b y\n", "z\nb\n")))
    assert decoded(corpus, "valid") == ["a", "<unk>", "b", "<unk>", "<eos>"]
    assert {split: corpus.meta["splits"][split]["unknown"] for split in SPLITS} == {"train": 0, "valid": 2, "test": 1}


@pytest.mark.parametrize("level", [Level.word, Level.char])
def test_unknown_words_without_unk_are_refused(tmp_path, level):
    with pytest.raises(UserError, match=r"the valid split .*'x'.*data\.level=byte"):
        open_corpus(corpus_config(write_corpus(tmp_path, "a b\n", "a x\n", "a b\n"), level))


@pytest.mark.parametrize("damage", ["truncated", "gone"])
@pytest.mark.parametrize("name", ["train.bin", "valid.bin", "test.bin", "vocabulary.json", "meta.json"])
def test_a_damaged_cache_is_reported_and_made_anew(tmp_path, name, damage, caplog):
    config = corpus_config(write_corpus(tmp_path))
    open_corpus(config)
    (path,) = tmp_path.glob(f"cache/*/{name}")
    path.unlink() if damage == "gone" else path.write_bytes(path.read_bytes()[:-3])
    assert decoded(open_corpus(config), "test") == words_of(TEXT)
    assert "is damaged" in caplog.text


@pytest.mark.parametrize("split", SPLITS)
def test_a_missing_file_is_reported_with_the_key(tmp_path, split):
    config = corpus_config(write_corpus(tmp_path))
    (tmp_path / f"{split}.txt").unlink()
    with pytest.raises(UserError, match=rf"data\.path=.*{split}\.txt"):
        open_corpus(config)


@pytest.mark.parametrize("level", [Level.word, Level.char])
@pytest.mark.parametrize("split", SPLITS)
def test_text_that_is_not_utf8_is_reported_with_the_way_out(tmp_path, split, level):
    config = corpus_config(write_corpus(tmp_path), level)
    (tmp_path / f"{split}.txt").write_bytes(b"a b\n\xff\xfe\n")
    with pytest.raises(UserError, match=rf"{split}\.txt is not UTF-8.*data\.level=byte"):
        open_corpus(config)


def test_bytes_need_not_be_utf8(tmp_path):
    config = corpus_config(write_corpus(tmp_path), Level.byte)
    (tmp_path / "test.txt").write_bytes(b"\xff\xfe\n")
    assert open_corpus(config).splits["test"].tolist() == [255, 254, 10]


@pytest.mark.parametrize("level", Level)
@pytest.mark.parametrize("split", SPLITS)
def test_an_empty_split_is_refused(tmp_path, split, level):
    with pytest.raises(UserError, match=rf"{split}\.txt"):
        open_corpus(corpus_config(write_corpus(tmp_path, **{split: ""}), level))


@pytest.mark.parametrize(
    "config, named",
    [
        (DataConfig(name="text"), r"data\.path"),
        (DataConfig(name="fairseq"), r"data\.path.*dict\.txt"),
        (DataConfig(name="wikitext2", path="/nowhere"), r"data\.path=/nowhere.*wiki\.train\.tokens"),
        (DataConfig(name="ptb", level=Level.bpe), r"data\.level=bpe.*word or char or byte"),
        (DataConfig(name="text8", level=Level.word), r"data\.level"),
        (DataConfig(name="enwik8", level=Level.char), r"data\.level"),
        (DataConfig(name="lm1b", level=Level.byte), r"data\.level"),
        (DataConfig(name="stdlib", level=Level.word), r"data\.level"),
        (DataConfig(name="stdlib", level=Level.byte, path="x"), r"data\.path"),
        (DataConfig(name="stdlib", level=Level.byte, url="x"), r"data\.url"),
        (DataConfig(name="wikitext"), r"data\.name"),
    ],
)
def test_what_is_wrong_with_the_choice_is_said_before_any_file_is_read(config, named):
    with pytest.raises(UserError, match=named):
        corpus_named(config.name).check(config)


def stdlib_files() -> dict[str, list[Path]]:
    found = corpus_named("stdlib").find(Path(sysconfig.get_path("stdlib")))
    return {split: [source.path for source in found[split]] for split in SPLITS}


def test_the_standard_library_is_shared_out_among_the_splits_and_stays_so(monkeypatch):
    files = stdlib_files()
    assert files == stdlib_files()
    walk = os.walk
    monkeypatch.setattr(
        os, "walk", lambda *args, **named: ((at, dirs, names[::-1]) for at, dirs, names in walk(*args, **named))
    )
    assert files == stdlib_files(), "the order is that in which the disk lists the files"
    together = [path for split in SPLITS for path in files[split]]
    assert len(set(together)) == len(together), "splits overlap"
    modules = {path for path in Path(sysconfig.get_path("stdlib")).glob("*.py")}
    assert modules and modules <= set(together), "modules of the top level are left out"
    packages = {path for path in Path(sysconfig.get_path("stdlib"), "email").glob("**/*.py")}
    assert packages and packages <= set(together), "modules of a package are left out"


def test_the_standard_library_reads_as_its_bytes(tmp_path):
    config = DataConfig(name="stdlib", level=Level.byte, cache=str(tmp_path))
    files, corpus = stdlib_files(), open_corpus(config)
    for split in SPLITS:
        assert corpus.splits[split].tobytes() == b"".join(path.read_bytes() for path in files[split])

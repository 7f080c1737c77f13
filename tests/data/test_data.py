"""Token files say what the corpus says, are made once, and are made anew exactly when the corpus has changed."""

import os
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tbptt.data.config import Level
from tbptt.data.corpora import SPLITS
from tbptt.data.prepare import open_corpus
from tbptt.data.vocabulary import EOS
from tests.data.small_corpora import TEXT, corpus_config, decoded, words_of, write_corpus

# Blanks of many kinds, line ends of other systems, letters of one to four bytes.
texts = st.text(st.sampled_from("ab \n\t\r\x0b\x1c\u2028\u00a0\u00e9\u4e16\U0001f600"), min_size=2, max_size=40)


def token_files(folder: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of every token file."""
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.glob("cache/*/*.bin")}


@pytest.mark.parametrize("level", [Level.word, Level.char, Level.byte])
@given(texts)
def test_ids_decode_to_the_source(level, text):
    if level is Level.word and len(words_of(text)) < 2:
        text += "\n\n"
    with tempfile.TemporaryDirectory() as folder:
        corpus = open_corpus(corpus_config(write_corpus(Path(folder), text, text, text), level))
        source = {
            Level.word: words_of(text),
            Level.char: list(text),
            Level.byte: [f"{byte:02x}" for byte in text.encode()],
        }[level]
        for split in SPLITS:
            assert decoded(corpus, split) == source
            assert corpus.meta["splits"][split]["tokens"] == len(source)
            assert corpus.meta["splits"][split]["unknown"] == 0


@given(st.lists(st.sampled_from("abcdefg"), min_size=5, max_size=60))
def test_the_vocabulary_is_sorted_by_frequency_after_eos(words):
    with tempfile.TemporaryDirectory() as folder:
        corpus = open_corpus(corpus_config(write_corpus(Path(folder), *[" ".join(words) + "\n"] * 3)))
    first, *others = corpus.vocabulary.symbols
    counts = Counter(words)
    assert first == EOS
    assert sorted(others) == sorted(counts)
    assert [counts[word] for word in others] == sorted(counts.values(), reverse=True)


@pytest.mark.parametrize("n_words, dtype", [(255, "<u1"), (256, "<u2"), (65_535, "<u2"), (65_536, "<u4")])
def test_ids_are_of_the_smallest_type_that_holds_them(tmp_path, n_words, dtype):
    words = " ".join(str(i) for i in range(n_words)) + "\n"  # and <eos>
    corpus = open_corpus(corpus_config(write_corpus(tmp_path, words, words, words)))
    assert len(corpus.vocabulary) == n_words + 1
    assert {stream.dtype for stream in corpus.splits.values()} == {np.dtype(dtype)}
    assert sorted(corpus.splits["valid"]) == list(range(n_words + 1))


def test_token_files_are_reused_while_the_source_is_unchanged(tmp_path):
    config = corpus_config(write_corpus(tmp_path))
    first = open_corpus(config)
    made = token_files(tmp_path)
    again = open_corpus(config)
    assert len(made) == 3 and token_files(tmp_path) == made
    assert again.identity() == first.identity() and decoded(again, "train") == decoded(first, "train")


def test_token_files_are_reused_when_only_the_time_of_the_source_changed(tmp_path):
    config = corpus_config(write_corpus(tmp_path))
    open_corpus(config)
    made = token_files(tmp_path)
    os.utime(tmp_path / "train.txt", ns=(1, 1))
    open_corpus(config)
    assert token_files(tmp_path) == made


@pytest.mark.parametrize("split", SPLITS)
def test_token_files_are_made_anew_when_the_content_changed(tmp_path, split):
    config = corpus_config(write_corpus(tmp_path))
    before = open_corpus(config)
    write_corpus(tmp_path, **{split: "c b a\n\nb a b\n"})  # of the same length
    after = open_corpus(config)
    assert decoded(after, split) == ["c", "b", "a", "<eos>", "<eos>", "b", "a", "b", "<eos>"]
    assert (after.identity() == before.identity()) == (split != "train")


def test_other_tokens_are_another_text_though_source_and_vocabulary_are_the_same(tmp_path):
    folder = write_corpus(tmp_path, *["A b a B\n"] * 3)
    (tmp_path / "words.txt").write_text("<unk>\n<eos>\na\nb\n")
    corpora = [open_corpus(corpus_config(folder, vocabulary=str(tmp_path / "words.txt"), lower=x)) for x in (0, 1)]
    cased, lowered = corpora
    assert cased.meta["vocabulary_sha256"] == lowered.meta["vocabulary_sha256"]
    assert decoded(cased, "train") != decoded(lowered, "train") and cased.identity() != lowered.identity()


def test_levels_and_folders_are_prepared_apart(tmp_path):
    one, other = write_corpus(tmp_path / "one"), write_corpus(tmp_path / "other", *["x y\n"] * 3)
    cache = str(tmp_path / "cache")
    corpora = [open_corpus(corpus_config(folder, level, cache=cache)) for folder in (one, other) for level in Level]
    assert len({corpus.folder for corpus in corpora}) == 8
    assert len({tuple(decoded(corpus, "train")) for corpus in corpora if corpus.vocabulary.level is not Level.bpe}) == 6


def test_a_path_means_the_same_however_it_is_written(tmp_path, monkeypatch):
    config = corpus_config(write_corpus(tmp_path))
    open_corpus(config)
    made = token_files(tmp_path)
    monkeypatch.chdir(tmp_path.parent)
    open_corpus(corpus_config(tmp_path, path=tmp_path.name))
    assert token_files(tmp_path) == made


@pytest.mark.parametrize("moment", ["writing._write", "sources.sha256", "prepare.os.rename"])
def test_a_preparation_that_fails_leaves_nothing_under_the_final_name(tmp_path, monkeypatch, moment):
    config = corpus_config(write_corpus(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(f"tbptt.data.{moment}", fail_at_call(1 if moment == "prepare.os.rename" else 2))
        with pytest.raises(OSError, match="disk full"):
            open_corpus(config)
        assert [path for path in (tmp_path / "cache").iterdir() if path.is_dir() and "building" not in path.name] == []
    assert decoded(open_corpus(config), "train") == words_of(TEXT)


def fail_at_call(number: int):
    calls = []

    def fail(*args):
        calls.append(args)
        if len(calls) == number:
            raise OSError("disk full")
        return {}

    return fail


def test_what_a_killed_preparation_left_is_no_obstacle(tmp_path):
    config = corpus_config(write_corpus(tmp_path))
    open_corpus(config)
    (prepared,) = (path for path in (tmp_path / "cache").iterdir() if path.is_dir())
    os.rename(prepared, prepared.with_name(f"{prepared.name}.building"))
    assert decoded(open_corpus(config), "test") == words_of(TEXT)
    assert {path for path in (tmp_path / "cache").iterdir() if path.is_dir()} == {prepared}

"""Subwords: what tokenizer.json decodes is the text, whatever the text; the same text gives the same subwords."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from tbptt.data import subwords, writing
from tbptt.data.config import Level
from tbptt.data.corpora import SPLITS
from tbptt.data.prepare import PreparedCorpus, open_corpus
from tbptt.data.sources import chunks
from tbptt.errors import UserError
from tests.data.small_corpora import corpus_config, write_corpus
from tests.helpers import CONF

texts = st.text(st.sampled_from("ab \n\r\t\u2028\x1c\u00e9\u4e16\U0001f600") | st.characters(exclude_categories=["Cs"]),
                min_size=2, max_size=60)  # fmt: skip
ENGLISH = (CONF.parent / "README.md").read_text(encoding="utf-8")


def prepared(folder: Path | str, text: str, **settings) -> PreparedCorpus:
    folder = write_corpus(Path(folder), text, text, text)
    return open_corpus(corpus_config(folder, Level.bpe, **{"bpe_size": 300} | settings))


def text_of(corpus: PreparedCorpus, split: str) -> str:
    tokenizer = Tokenizer.from_file(str(corpus.folder / "tokenizer.json"))
    return tokenizer.decode(corpus.splits[split].tolist(), skip_special_tokens=False)


@given(texts)
def test_subwords_decode_to_the_text(text):
    with tempfile.TemporaryDirectory() as folder:
        corpus = prepared(folder, text + "\n\u4e16")
        assert {text_of(corpus, split) for split in SPLITS} == {text + "\n\u4e16"}


def test_text_with_characters_that_train_has_not_decodes_too(tmp_path):
    write_corpus(tmp_path, "plain text\n", "\u4e16\u754c \U0001f600\n", "\x00\x85\u2028\n")
    corpus = open_corpus(corpus_config(tmp_path, Level.bpe, bpe_size=270))
    assert text_of(corpus, "valid") == "\u4e16\u754c \U0001f600\n" and text_of(corpus, "test") == "\x00\x85\u2028\n"


@pytest.mark.parametrize("size, dtype", [(257, "<u2"), (400, "<u2"), (600, "<u2")])
def test_the_vocabulary_has_the_size_that_was_asked_for(tmp_path, size, dtype):
    corpus = prepared(tmp_path, ENGLISH, bpe_size=size)
    assert len(corpus.vocabulary) == len(set(corpus.vocabulary.symbols)) == corpus.meta["vocab_size"] == size
    assert corpus.splits["train"].dtype == np.dtype(dtype)
    assert max(corpus.splits["train"]) < size and text_of(corpus, "train") == ENGLISH


def test_a_text_is_encoded_in_batches_of_lines(monkeypatch, tmp_path):
    whole = prepared(tmp_path / "a", ENGLISH).splits["train"]
    monkeypatch.setattr(subwords, "BATCH", 50)
    assert prepared(tmp_path / "b", ENGLISH).splits["train"].tolist() == whole.tolist()


def test_a_tokenizer_with_a_gap_in_its_ids_is_refused(tmp_path):
    Tokenizer(models.WordLevel({"?": 0, "a": 1, "b": 7}, unk_token="?")).save(str(tmp_path / "given.json"))
    with pytest.raises(UserError, match="has no entry for the id 2, but for 7"):
        prepared(tmp_path, "a b", vocabulary=str(tmp_path / "given.json"), bpe_size=8192)


def test_a_text_that_has_fewer_subwords_says_so(tmp_path, caplog):
    size = len(prepared(tmp_path, "a few words, a few words\n", bpe_size=400).vocabulary)
    assert 256 < size < 400 and caplog.messages == [f"data.bpe_size=400: the training text has only {size} subwords"]


def test_more_subwords_make_a_shorter_text(tmp_path):
    small, large = (prepared(tmp_path, ENGLISH, bpe_size=size) for size in (300, 600))
    assert len(large.splits["test"]) < 0.9 * len(small.splits["test"]) < 0.9 * len(ENGLISH.encode())


def test_the_result_is_the_same_again_and_for_any_chunks(tmp_path, monkeypatch):
    one = prepared(tmp_path, ENGLISH)
    again = prepared(tmp_path, ENGLISH, cache=str(tmp_path / "again"))
    monkeypatch.setattr(writing, "chunks", lambda sources, level: chunks(sources, level, 100))
    cut = prepared(tmp_path, ENGLISH, cache=str(tmp_path / "cut"))
    for name in ("train.bin", "valid.bin", "test.bin", "vocabulary.json", "tokenizer.json"):
        assert len({(corpus.folder / name).read_bytes() for corpus in (one, again, cut)}) == 1, name


def test_lower_case_is_part_of_the_tokenizer(tmp_path):
    assert text_of(prepared(tmp_path, "Ab CD \u00c9\n", lower=True), "train") == "ab cd \u00e9\n"


def test_a_given_tokenizer_is_used_as_it_stands(tmp_path):
    given = Tokenizer(models.WordLevel({"b": 0, "a": 1, "?": 2}, unk_token="?"))
    given.pre_tokenizer = pre_tokenizers.Whitespace()
    given.enable_truncation(2)  # would lose text
    given.enable_padding(length=9)  # would invent some
    given.save(str(tmp_path / "given.json"))
    corpus = prepared(tmp_path, "a b a c\nb b b b a\n", vocabulary=str(tmp_path / "given.json"))
    assert corpus.splits["train"].tolist() == [1, 0, 1, 2, 0, 0, 0, 0, 1]
    assert corpus.vocabulary.symbols == ["b", "a", "?"] and corpus.splits["train"].dtype == np.uint8


def test_what_is_no_tokenizer_is_refused(tmp_path):
    (tmp_path / "given.json").write_text("{}")
    with pytest.raises(UserError, match=r"data\.vocabulary=.*given\.json is not a valid tokenizer\.json"):
        prepared(tmp_path, "a b\n", vocabulary=str(tmp_path / "given.json"))

"""A loss per token means what it says per token, per character or byte, and per word and byte of the original text."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from tbptt.data import writing
from tbptt.data.config import Level
from tbptt.data.corpora import SPLITS
from tbptt.data.prepare import open_corpus
from tbptt.data.sources import chunks
from tbptt.evaluation.units import loss_units, original_units
from tbptt.report.curves import loss_axis
from tests.data.small_corpora import corpus_config, words_of, write_corpus

TEXT = "the cat sat\n\non the m\u00e4t  \u4e16\u754c \n the end"


@given(st.floats(0, 20))
def test_units_follow_from_the_loss_in_nats(loss):
    for level in Level:
        units = loss_units(loss, level)
        assert units["loss"] == loss and units["ppl"] == pytest.approx(math.exp(loss), rel=1e-12)
        assert ("bpc" in units) == (level in (Level.char, Level.byte))
        assert units.get("bpc", loss / math.log(2)) == pytest.approx(loss / math.log(2), rel=1e-12)
        assert loss_axis(level)[0] in units


def test_the_original_words_and_bytes_are_those_of_the_other_levels(tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "chunks", lambda sources, level: chunks(sources, level, 9))
    folder = write_corpus(tmp_path, TEXT, TEXT + "\n", TEXT + "\n" + TEXT)
    subwords, words, size = (open_corpus(corpus_config(folder, level)) for level in (Level.bpe, Level.word, Level.byte))
    for split in SPLITS:
        counts = subwords.meta["splits"][split]
        assert counts["words"] == len(words.splits[split])
        assert counts["source_bytes"] == len(size.splits[split])
    assert subwords.meta["splits"]["train"]["words"] == len(words_of(TEXT))


def test_of_documents_all_words_and_bytes_are_predicted():
    counts = {"tokens": 13, "documents": 3, "words": 10, "source_bytes": 40}
    units = original_units(2.0, 12, Level.bpe, counts)
    assert units["word_ppl"] == pytest.approx(math.exp(2.4), rel=1e-12)
    assert units["bits_per_byte"] == pytest.approx(24 / math.log(2) / 40, rel=1e-12)


@given(st.floats(0, 20), st.integers(2, 10**6))
def test_where_every_word_or_byte_is_a_token_the_numbers_are_those_of_words_or_bytes(loss, tokens):
    counts = {"tokens": tokens, "words": tokens, "source_bytes": tokens}
    units = original_units(loss, tokens - 1, Level.bpe, counts)
    assert units["word_ppl"] == pytest.approx(loss_units(loss, Level.word)["ppl"], rel=1e-9)
    assert units["bits_per_byte"] == pytest.approx(loss_units(loss, Level.byte)["bpc"], rel=1e-9)


def test_a_tokenizer_of_whole_words_counts_as_level_word_does(tmp_path):
    folder = write_corpus(tmp_path, *["a b a\nb b\n"] * 3)
    given = Tokenizer(models.WordLevel({"a": 0, "b": 1, "\n": 2}, unk_token="a"))
    given.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(" ", "removed"), pre_tokenizers.Split("\n", "isolated")]
    )
    given.save(str(tmp_path / "given.json"))
    corpus = open_corpus(corpus_config(folder, Level.bpe, vocabulary=str(tmp_path / "given.json")))
    counts = corpus.meta["splits"]["test"]
    assert counts["words"] == counts["tokens"] == 7
    assert original_units(1.5, 6, Level.bpe, counts)["word_ppl"] == pytest.approx(math.exp(1.5), rel=1e-12)


@pytest.mark.parametrize("level, tokens", [(Level.bpe, 8), (Level.word, 9), (Level.char, 9), (Level.byte, 9)])
def test_they_are_for_subwords_and_whole_splits_alone(level, tokens):
    assert original_units(1.0, tokens, level, {"tokens": 10, "words": 5, "source_bytes": 30}) == {}

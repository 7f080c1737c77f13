"""Published corpora are read as their papers did: what marks the end of a line, and so the number of tokens."""

from pathlib import Path

import pytest

from tbptt.data.corpora import SPLITS, corpus_named
from tbptt.data.prepare import open_corpus
from tests.data.small_corpora import corpus_config, decoded, write_corpus

WIKITEXT2 = Path(__file__).parents[3] / "shared" / "data" / "wikitext-2"


def test_wikitext_has_one_eos_a_line_blank_lines_too(tmp_path):
    text = " \n = Title = \n \n <unk> b @-@ b \n"
    folder = write_corpus(tmp_path, text, text, text, pattern="wiki.{}.tokens")
    read = " ".join(decoded(open_corpus(corpus_config(folder, name="wikitext2")), "train"))
    assert read == "<eos> = Title = <eos> <eos> <unk> b @-@ b <eos>"


def write_lm1b(folder: Path, *shards: str, test: str) -> Path:
    """Under the names of the distribution."""
    train, held_out = (
        folder / "training-monolingual.tokenized.shuffled",
        folder / "heldout-monolingual.tokenized.shuffled",
    )
    train.mkdir(), held_out.mkdir()
    for number, text in enumerate(shards, start=1):
        (train / f"news.en-{number:05d}-of-00100").write_text(text)
    for number, text in enumerate((test, "not this\n")):
        (held_out / f"news.en.heldout-{number:05d}-of-00050").write_text(text)
    return folder


def test_lm1b_has_its_mark_around_every_sentence(tmp_path):
    folder = write_lm1b(tmp_path, "b a .\nc !\n", "A ?\n", test="a b\nc\n")
    corpus = open_corpus(corpus_config(folder, name="lm1b"))
    assert " ".join(decoded(corpus, "train")) == "<S> b a . <S> <S> c ! <S> <S> A ? <S>"
    assert " ".join(decoded(corpus, "test")) == " ".join(decoded(corpus, "valid")) == "<S> a b <S> <S> c <S>"
    assert corpus.vocabulary.symbols[0] == "<S>"


def test_lm1b_reads_with_the_reference_vocabulary(tmp_path):
    (tmp_path / "list").write_text("</S>\n<S>\n<UNK>\nthe\na\n")
    folder = write_lm1b(tmp_path, "the a\n", "the zebra\n", test="a yak a\n")
    corpus = open_corpus(corpus_config(folder, name="lm1b", vocabulary=str(tmp_path / "list")))
    assert corpus.splits["train"].tolist() == [1, 3, 4, 1, 1, 3, 2, 1]
    assert corpus.splits["test"].tolist() == [1, 4, 2, 4, 1]
    assert {split: corpus.meta["splits"][split]["unknown"] for split in SPLITS} == {"train": 1, "valid": 1, "test": 1}


@pytest.mark.skipif(not WIKITEXT2.exists(), reason="WikiText-2 is not on this machine")
def test_wikitext2_has_its_published_lengths(tmp_path):
    for split, source in (("train", "test"), ("valid", "valid"), ("test", "test")):
        (tmp_path / f"wiki.{split}.tokens").symlink_to(WIKITEXT2 / f"wiki.{source}.tokens")
    corpus = open_corpus(corpus_config(tmp_path, name="wikitext2"))
    published = corpus_named("wikitext2").published.tokens
    assert {split: len(corpus.splits[split]) for split in ("valid", "test")} == {"valid": 217_646, "test": 245_569}
    assert published["valid"] == 217_646 and published["test"] == 245_569

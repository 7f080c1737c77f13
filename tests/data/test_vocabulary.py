"""A vocabulary is as small as asked, of the most frequent symbols; what it lacks is read as <unk> and counted."""

import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tbptt.data.config import Level
from tbptt.data.corpora import SPLITS
from tbptt.data.prepare import PreparedCorpus, open_corpus
from tbptt.data.vocabulary import EOS, UNK
from tbptt.errors import UserError
from tests.data.small_corpora import corpus_config, decoded, words_of, write_corpus

words = st.lists(st.sampled_from(["a", "A", "b", "c", "d", "\u00e9", "\u00c9", UNK]), min_size=1, max_size=30)
texts = st.lists(words, min_size=1, max_size=4).map(lambda lines: "".join(" ".join(line) + "\n" for line in lines))


def prepared(folder: str | Path, *texts: str, level: Level = Level.word, **settings) -> PreparedCorpus:
    return open_corpus(corpus_config(write_corpus(Path(folder), *texts), level, **settings))


def check(corpus: PreparedCorpus, texts: tuple[str, ...]) -> None:
    """Known words are read as themselves, the others as <unk>; these are counted."""
    known = set(corpus.vocabulary.symbols)
    for split, text in zip(SPLITS, texts):
        read = words_of(text)
        assert decoded(corpus, split) == [word if word in known else UNK for word in read]
        assert corpus.meta["splits"][split]["unknown"] == sum(word not in known for word in read)


@given(texts, texts, texts, st.integers(2, 5))
def test_words_rarer_than_min_count_are_unknown(train, valid, test, min_count):
    with tempfile.TemporaryDirectory() as folder:
        corpus = prepared(folder, train, valid, test, min_count=min_count)
        check(corpus, (train, valid, test))
    counts = Counter(words_of(train))
    enough = {word for word, count in counts.items() if count >= min_count}
    assert set(corpus.vocabulary.symbols) == enough | {EOS, UNK} and corpus.vocabulary.symbols[0] == EOS


@given(texts, texts, texts, st.integers(2, 9))
def test_the_most_frequent_words_fill_max_vocab(train, valid, test, max_vocab):
    with tempfile.TemporaryDirectory() as folder:
        corpus = prepared(folder, train, valid, test, max_vocab=max_vocab)
        check(corpus, (train, valid, test))
    counts, kept = Counter(words_of(train)), set(corpus.vocabulary.symbols)
    assert len(kept) == len(corpus.vocabulary) == min(max_vocab, len(counts.keys() | {UNK}))
    assert {EOS, UNK} <= kept
    dropped = [counts[word] for word in counts.keys() - kept]
    assert max(dropped, default=0) <= min((counts[word] for word in kept - {EOS, UNK}), default=max(dropped, default=0))


def test_rare_characters_are_unknown_too(tmp_path):
    corpus = prepared(tmp_path, "aab\nb\n", "abc\n", "xyz", level=Level.char, min_count=2)
    assert decoded(corpus, "valid") == ["a", "b", UNK, "\n"]
    assert sorted(corpus.vocabulary.symbols) == ["\n", UNK, "a", "b"]
    assert [corpus.meta["splits"][split]["unknown"] for split in SPLITS] == [0, 1, 3]


@given(texts)
def test_lower_case_is_that_of_the_whole_text(text):
    with tempfile.TemporaryDirectory() as folder:
        corpus = prepared(folder, text, text, text, lower=True)
        assert decoded(corpus, "test") == words_of(text.lower())


def test_the_share_of_unknown_words_is_logged(tmp_path, caplog):
    with caplog.at_level("INFO"):
        prepared(tmp_path, "a a b\n", "a b a\n", "a a a\n", min_count=2)
    assert "train: 2 of 4 tokens are unknown (50.00%)" not in caplog.text
    assert "train: 1 of 4 tokens are unknown (25.00%)" in caplog.text
    assert "valid: 1 of 4 tokens are unknown (25.00%)" in caplog.text
    assert "test:" not in caplog.text


def test_a_given_vocabulary_is_used_as_it_stands(tmp_path):
    (tmp_path / "list").write_text(f"z\nb 17\n{UNK}\n{EOS}\n", encoding="utf-8")
    corpus = prepared(tmp_path, "a b\n", "b z\n", "a a\n", vocabulary=str(tmp_path / "list"))
    assert corpus.vocabulary.symbols == ["z", "b", UNK, EOS]
    assert [corpus.splits[split].tolist() for split in SPLITS] == [[2, 1, 3], [1, 0, 3], [2, 2, 3]]
    assert [corpus.meta["splits"][split]["unknown"] for split in SPLITS] == [1, 0, 2]


def test_a_given_vocabulary_of_characters_may_hold_blanks(tmp_path):
    (tmp_path / "list").write_text(f" \nb\n{UNK}\n", encoding="utf-8")
    corpus = prepared(tmp_path, "a b", "b b", "b  ", level=Level.char, vocabulary=str(tmp_path / "list"))
    assert [corpus.splits[split].tolist() for split in SPLITS] == [[2, 0, 1], [1, 0, 1], [1, 0, 0]]


def test_a_given_vocabulary_of_characters_may_hold_the_line_break(tmp_path):
    (tmp_path / "list").write_text("\\n\na\nb\n", encoding="utf-8")
    corpus = prepared(tmp_path, "a\nb", "b\n", "\n\n", level=Level.char, vocabulary=str(tmp_path / "list"))
    assert [corpus.splits[split].tolist() for split in SPLITS] == [[1, 0, 2], [2, 0], [0, 0]]


@pytest.mark.parametrize(
    ("level", "content", "line"), [(Level.char, "a\nbc\n", 2), (Level.char, "a\n\nb\n", 2), (Level.word, "\na\n", 1)]
)
def test_a_line_of_a_given_vocabulary_that_is_no_entry_is_named(tmp_path, level, content, line):
    (tmp_path / "list").write_text(content)
    with pytest.raises(UserError, match=f"in each line, but line {line} is"):
        prepared(tmp_path, "a\n", "a\n", "a\n", level=level, vocabulary=str(tmp_path / "list"))


def test_another_content_of_the_given_vocabulary_is_another_corpus(tmp_path):
    settings = {"vocabulary": str(tmp_path / "list")}
    (tmp_path / "list").write_text(f"a\n{UNK}\n{EOS}\n")
    assert decoded(prepared(tmp_path, *["a b\n"] * 3, **settings), "test") == ["a", UNK, EOS]
    (tmp_path / "list").write_text(f"b\n{UNK}\n{EOS}\n")
    assert decoded(prepared(tmp_path, *["a b\n"] * 3, **settings), "test") == [UNK, "b", EOS]


def test_a_given_vocabulary_that_is_gone_is_said_so(tmp_path):
    settings = {"vocabulary": str(tmp_path / "list")}
    (tmp_path / "list").write_text(f"a\n{UNK}\n{EOS}\n")
    prepared(tmp_path, *["a b\n"] * 3, **settings)
    (tmp_path / "list").unlink()
    with pytest.raises(UserError, match=r"data\.vocabulary=.*list: there is no file"):
        prepared(tmp_path, *["a b\n"] * 3, **settings)


@pytest.mark.parametrize("content", ["a\nb\na\n", ""])
def test_a_vocabulary_that_is_empty_or_has_an_entry_twice_is_refused(tmp_path, content):
    (tmp_path / "list").write_text(content)
    with pytest.raises(UserError, match=r"data\.vocabulary=.*list must list each entry once"):
        prepared(tmp_path, *["a b\n"] * 3, vocabulary=str(tmp_path / "list"))


def test_a_given_vocabulary_without_unk_must_be_complete(tmp_path):
    (tmp_path / "list").write_text(f"a\n{EOS}\n")
    with pytest.raises(UserError, match=r"the test split of data=text has 2 tokens .*'bible'.*: add them or <unk>"):
        prepared(tmp_path, "a\n", "a a\n", "a bible bible\n", vocabulary=str(tmp_path / "list"))

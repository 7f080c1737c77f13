"""A user's text is read in the words of a run as the run's own corpus was; what it lacks is told."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tbptt.data.config import Level
from tbptt.data.language import Language, corpus_language, load_language, save_language
from tbptt.data.own_text import open_own_text, read_own_text
from tbptt.data.prepare import open_corpus
from tbptt.data.vocabulary import Vocabulary
from tbptt.errors import UserError
from tbptt.evaluation.units import original_units
from tests.data.small_corpora import corpus_config, write_corpus

TRAIN = "the cat sat on the mat\nthe dog sat <unk>\n\n"
SYMBOLS, CASES = (Level.word, Level.char), (False, True)
lines = st.lists(st.lists(st.sampled_from(["the", "cat", "dog", "on"]), max_size=4), min_size=2, max_size=5)


def run_on(folder, level: Level, test: str = TRAIN, **settings):
    """A corpus, and the directory of a run on it."""
    corpus = open_corpus(corpus_config(write_corpus(folder / "text", TRAIN, TRAIN, test), level, **settings))
    (folder / "run").mkdir()
    save_language(corpus, folder / "run")
    return corpus, folder / "run"


@pytest.mark.parametrize("level, lower", [*((level, case) for level in SYMBOLS for case in CASES), (Level.byte, False)])
@settings(max_examples=8)
@given(lines)
def test_a_text_is_read_as_the_corpus_was(tmp_path_factory, level, lower, words):
    folder = tmp_path_factory.mktemp("own")
    text = "".join(" ".join(line) + "\n" for line in words)
    corpus, run_dir = run_on(folder, level, test=text, lower=lower)
    language = load_language(run_dir, corpus.vocabulary.sha256, lower)
    (folder / "mine.txt").write_text(text)
    stream = read_own_text(folder / "mine.txt", language)
    assert stream.tolist() == corpus.splits["test"].tolist()
    assert stream.dtype == corpus.splits["test"].dtype


def test_subwords_are_read_with_the_runs_tokenizer(tmp_path):
    corpus, run_dir = run_on(tmp_path, Level.bpe, test="the dog sat on the dog\n", bpe_size=270)
    (tmp_path / "mine.txt").write_text("the dog sat on the dog\n")
    language = load_language(run_dir, corpus.vocabulary.sha256, False)
    own = open_own_text(tmp_path / "mine.txt", "test", language)
    assert own.splits["test"].tolist() == corpus.splits["test"].tolist()
    assert corpus.meta["splits"]["test"].items() >= own.meta["splits"]["test"].items()
    assert own.meta["splits"]["test"].keys() == {"tokens", "words", "source_bytes"}
    (run_dir / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"tokenizer\.json"):
        load_language(run_dir, corpus.vocabulary.sha256, False)


def test_a_document_of_ones_own_has_the_units_of_the_split_of_its_content(tmp_path):
    corpus, run_dir = run_on(tmp_path, Level.bpe, test="the dog sat\n", bpe_size=270, documents=True)
    (tmp_path / "mine.txt").write_text("the dog sat\n")
    own = open_own_text(tmp_path / "mine.txt", "test", load_language(run_dir, corpus.vocabulary.sha256, False))
    tokens = len(corpus.splits["test"]) - 1
    ours, expected = (original_units(1.5, tokens, Level.bpe, each.meta["splits"]["test"]) for each in (own, corpus))
    assert ours == expected and ours


def test_unknown_words_are_told_and_read_as_unknown(tmp_path, caplog):
    corpus, _ = run_on(tmp_path, Level.word)
    (tmp_path / "mine.txt").write_text("the zebra sat\na zebra\n")
    stream = read_own_text(tmp_path / "mine.txt", corpus_language(corpus))
    read = [corpus.vocabulary.symbols[i] for i in stream]
    assert read == ["the", "<unk>", "sat", "<eos>", "<unk>", "<unk>", "<eos>"]
    assert "3 of 7 tokens (2 types, such as 'zebra', 'a') are unknown" in caplog.text


def test_unknown_characters_without_a_symbol_for_them_are_refused(tmp_path):
    corpus, _ = run_on(tmp_path, Level.char)
    (tmp_path / "mine.txt").write_text("the zebra\n")
    with pytest.raises(UserError, match=r"mine\.txt: 3 of 10 tokens .*'z'.*no <unk>"):
        read_own_text(tmp_path / "mine.txt", corpus_language(corpus))


@pytest.mark.parametrize(
    "symbols, read",
    [
        (["<s>", "<pad>", "</s>", "<unk>", "a", "b"], "a b </s> b </s>"),
        (["<S>", "</S>", "<UNK>", "a", "b"], "<S> a b <S> <S> b <S>"),
        (["a", "<eos>", "b", "<S>"], "a b <eos> b <eos>"),
        (["a", "b"], "a b b"),
    ],
)
def test_lines_are_marked_as_the_vocabulary_does(tmp_path, symbols, read):
    (tmp_path / "mine.txt").write_text("a b\nb\n")
    stream = read_own_text(tmp_path / "mine.txt", Language(Vocabulary(Level.word, symbols)))
    assert " ".join(symbols[i] for i in stream) == read


@pytest.mark.parametrize("symbols", [["</s>", "<unk>", "a", "b"], ["<eos>", "<unk>", "a", "b"]])
def test_a_corpus_is_prepared_in_the_words_of_a_run(tmp_path, symbols):
    (tmp_path / "vocabulary.json").write_text(Vocabulary(Level.word, symbols).to_json())
    folder = write_corpus(tmp_path / "text", "a b\n", "a c\n", "b\n")
    corpus = open_corpus(corpus_config(folder, vocabulary=str(tmp_path / "vocabulary.json")))
    assert corpus.vocabulary.symbols == symbols
    assert [corpus.splits[split].tolist() for split in ("train", "valid", "test")] == [[2, 3, 0], [2, 1, 0], [3, 0]]


@pytest.mark.parametrize("damage", ["missing", "other", "no json"])
def test_a_run_without_its_vocabulary_is_told_of(tmp_path, damage):
    corpus, run_dir = run_on(tmp_path, Level.word)
    path = run_dir / "vocabulary.json"
    if damage == "missing":
        path.unlink()
    else:
        path.write_text(Vocabulary(Level.word, ["a"]).to_json() if damage == "other" else "{")
    with pytest.raises(UserError, match=r"run/vocabulary\.json"):
        load_language(run_dir, corpus.vocabulary.sha256, False)


@pytest.mark.parametrize("text", ["", "the"])
def test_a_text_too_short_to_score_is_refused(tmp_path, text):
    (tmp_path / "mine.txt").write_text(text)
    with pytest.raises(UserError, match=r"mine\.txt has \d tokens"):
        read_own_text(tmp_path / "mine.txt", Language(Vocabulary(Level.word, ["the"])))

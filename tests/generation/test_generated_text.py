"""Prompts are read as the corpus was, and tokens become text as they come, in every kind of vocabulary."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from tbptt.data.config import Level
from tbptt.data.corpora import SPLITS
from tbptt.data.language import Language, corpus_language
from tbptt.data.prepare import PreparedCorpus, open_corpus
from tbptt.data.vocabulary import Vocabulary
from tbptt.errors import UserError
from tbptt.generation.text import decoder
from tbptt.generation.text import encode as encode_in
from tbptt.generation.writer import printable
from tests.data.small_corpora import GOLDEN_FAIRSEQ, corpus_config, write_corpus

TEXT = "the cat sat\n\non the m\u00e4t \u4e16\u754c\n" * 3


@pytest.fixture(scope="module")
def corpora(tmp_path_factory) -> dict[Level, PreparedCorpus]:
    folder = write_corpus(tmp_path_factory.mktemp("text"), TEXT, TEXT, TEXT)
    return {level: open_corpus(corpus_config(folder, level, bpe_size=270)) for level in Level}


def encode(prompt: str, corpus: PreparedCorpus) -> np.ndarray:
    return encode_in(prompt, corpus_language(corpus))


def streamed(corpus: PreparedCorpus, tokens, prompt: str = "") -> list[str]:
    """The pieces in which tokens after a prompt become text."""
    spelled = decoder(corpus_language(corpus), prompt, encode(prompt, corpus))
    return [spelled.add(int(token)) for token in tokens] + [spelled.end()]


@pytest.mark.parametrize("level", Level)
@pytest.mark.parametrize("split", SPLITS)
def test_the_text_of_a_corpus_is_read_as_it_was_and_spelled_again(corpora, level, split):
    corpus = corpora[level]
    assert encode(TEXT, corpus).tolist() == corpus.splits[split].tolist()
    assert "".join(streamed(corpus, corpus.splits[split])) == TEXT


@pytest.mark.parametrize("level", [Level.byte, Level.char])
@given(st.integers(1, len(TEXT) - 1))
def test_a_text_goes_on_where_its_prompt_ends(corpora, level, cut):
    tokens = encode(TEXT[cut:], corpora[level])
    assert "".join(streamed(corpora[level], tokens, TEXT[:cut])) == TEXT[cut:]


@pytest.mark.parametrize("prompt", ["the cat", "the cat ", "the cat sat\n", ""])
def test_words_bring_a_blank_where_one_is_lacking(corpora, prompt):
    said = "".join(streamed(corpora[Level.word], encode("on the\nm\u00e4t", corpora[Level.word]), prompt))
    assert said == (" " if prompt == "the cat" else "") + "on the\nm\u00e4t"


@pytest.mark.parametrize("level", [Level.byte, Level.bpe])
def test_characters_of_several_tokens_appear_whole(corpora, level):
    pieces = streamed(corpora[level], encode("\u00fc\U0001f600!", corpora[level]))
    assert "".join(pieces) == "\u00fc\U0001f600!" and all("\ufffd" not in piece for piece in pieces)
    assert streamed(corpora[level], encode("\u00fc\U0001f600", corpora[level])[:3])[-1] == "\ufffd"


@given(st.binary(max_size=40))
def test_any_bytes_are_spelled_as_python_decodes_them(corpora, data):
    assert "".join(streamed(corpora[Level.byte], data)) == data.decode(errors="replace")


@given(st.lists(st.integers(0, 269), max_size=40))
def test_any_subwords_are_spelled_as_the_tokenizer_decodes_them_together(corpora, tokens):
    corpus = corpora[Level.bpe]
    whole = Tokenizer.from_file(str(corpus.folder / "tokenizer.json")).decode(tokens)
    spelled = "".join(streamed(corpus, tokens, "the cat"))
    assert spelled.replace("\ufffd", "") == whole.replace("\ufffd", "")


def test_a_tokenizer_that_drops_the_first_blank_is_spelled_with_it(tmp_path):
    given = Tokenizer(models.WordLevel({"\u2581the": 0, "\u2581cat": 1, "?": 2}, unk_token="?"))
    given.pre_tokenizer, given.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    given.save(str(tmp_path / "given.json"))
    folder = write_corpus(tmp_path / "text", *["the cat the cat"] * 3)
    corpus = open_corpus(corpus_config(folder, Level.bpe, vocabulary=str(tmp_path / "given.json")))
    assert "".join(streamed(corpus, [1, 0], "the cat the")) == " cat the"


@pytest.mark.parametrize("level", [Level.word, Level.char])
def test_what_the_vocabulary_lacks_is_refused_or_read_as_unknown(tmp_path, corpora, caplog, level):
    with pytest.raises(UserError, match=r"the prompt: .* such as .*'Q'.* not in the run's vocabulary"):
        encode("the Q", corpora[level])
    folder = write_corpus(tmp_path, TEXT + "once", TEXT, TEXT)
    corpus = open_corpus(corpus_config(folder, level, min_count=2))
    assert corpus.vocabulary.unknown in encode("the Q", corpus)
    assert "such as 'Q') are unknown to the run and read as <unk>" in caplog.text


@pytest.mark.parametrize("level", Level)
def test_no_prompt_is_a_line_break(corpora, level):
    assert encode("", corpora[level]).tolist() == encode("\n", corpora[level]).tolist() != []


def test_a_prompt_without_a_word_is_refused(corpora):
    with pytest.raises(UserError, match="prompt '  ' holds no word"):
        encode("  ", corpora[Level.word])


def test_sentences_of_lm1b_begin_with_their_mark_and_are_spelled_as_lines(tmp_path):
    train = tmp_path / "training-monolingual.tokenized.shuffled"
    held_out = tmp_path / "heldout-monolingual.tokenized.shuffled"
    train.mkdir(), held_out.mkdir()
    (train / "news.en-00001-of-00100").write_text("a b\nb a\n")
    (held_out / "news.en.heldout-00000-of-00050").write_text("a b\nb a\n")
    corpus = open_corpus(corpus_config(tmp_path, name="lm1b"))
    symbols = corpus.vocabulary.symbols
    assert [symbols[i] for i in encode("a b\nb", corpus)] == ["<S>", "a", "b", "<S>", "<S>", "b"]
    assert "".join(streamed(corpus, encode("a b\nb a\n", corpus)[3:], "a b")) == "\nb a\n"


def test_fairseqs_lines_end_with_its_own_mark(tmp_path):
    corpus = open_corpus(corpus_config(GOLDEN_FAIRSEQ / "bin", name="fairseq", cache=str(tmp_path)))
    first = (GOLDEN_FAIRSEQ / "text/test.txt").read_text().splitlines(keepends=True)[0]
    tokens = encode(first, corpus)
    assert tokens.tolist() == corpus.splits["test"][: len(tokens)].tolist()


def test_a_model_cannot_send_commands_to_the_terminal():
    assert printable("a\x1b[2J\x9b\r\n\t\u00e9") == "a\ufffd[2J\ufffd\ufffd\n\t\u00e9"


def test_a_document_is_spelled_as_if_nothing_were_before_it():
    vocabulary = Vocabulary(Level.word, ["<doc>", "one", "two", "<eos>"], "<doc>")
    decode = decoder(Language(vocabulary), "one", np.array([1]))
    assert "".join(map(decode.add, [2, 0, 1, 2, 0, 2])) == " two\n\none two\n\ntwo"

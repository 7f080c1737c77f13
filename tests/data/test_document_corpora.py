"""Documents of corpora that show them, and what stays as it was where none are asked for."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from tbptt.data.config import DataConfig, Level
from tbptt.data.corpora import SPLITS, corpus_named
from tbptt.data.documents import pieces
from tbptt.data.documents.encoding import Part
from tbptt.data.documents.texts import article_starts
from tbptt.data.language import corpus_language, load_language, save_language
from tbptt.data.own_text import open_own_text
from tbptt.data.prepare import open_corpus
from tbptt.data.vocabulary import Vocabulary
from tbptt.errors import UserError
from tbptt.generation.text import decoder
from tests.data.document_files import documents_config, documents_of, files_of, texts_of, write_splits
from tests.data.small_corpora import corpus_config, words_of, write_corpus
from tests.helpers import CONF

ARTICLES = [
    " \n = First article = \n \n Text . \n = not a title = \n \n = = Section = = \n \n More . \n \n",
    " = Second = \n \n Text of it \n \n = = = Deep = = = \n \n x = y = z \n \n",
    " = Third ( a = b ) = \n \n",
    " = Fourth = \n \n Its end . \n",
]


@pytest.mark.parametrize("level", list(Level))
@pytest.mark.parametrize("size", [1, 100, 1 << 24])
def test_articles_of_wikitext_are_documents(tmp_path, monkeypatch, level, size):
    monkeypatch.setattr(pieces, "CHUNK", size)
    text = "".join(ARTICLES)
    folder = write_corpus(tmp_path / "files", text, text, ARTICLES[1], "wiki.{}.tokens")
    settings = {"name": "wikitext2", "cache": str(tmp_path / "cache"), "bpe_size": 300}
    corpus = open_corpus(corpus_config(folder, level, documents=True, **settings))
    expected = [words_of(article) for article in ARTICLES] if level is Level.word else ARTICLES
    assert texts_of(corpus, "train") == texts_of(corpus, "valid") == expected
    assert texts_of(corpus, "test") == expected[1:2]
    if level is not Level.bpe:  # it encodes documents as a whole, and text by lines
        plain = open_corpus(corpus_config(folder, level, **settings))
        kept = [np.delete(corpus.splits[split], corpus.documents[split]) for split in SPLITS]
        assert all(np.array_equal(ids, plain.splits[split]) for ids, split in zip(kept, SPLITS))
        assert corpus.vocabulary.symbols[:-1] == plain.vocabulary.symbols and plain.vocabulary.start is None
        assert plain.documents == {} and not (plain.folder / "train.starts").exists()


def test_a_text_without_titles_is_one_article():
    assert article_starts(b"a\n = = b = = \n \n") == [] == article_starts(b" \n \n = Title = \n \n text \n")


def test_published_counts_are_those_without_start_tokens(tmp_path):
    folder = write_corpus(tmp_path / "files", *["".join(ARTICLES)] * 3, "wiki.{}.tokens")
    config = corpus_config(folder, name="wikitext2", documents=True, check_counts=True)
    words = len(words_of("".join(ARTICLES)))
    with pytest.raises(UserError, match=rf": {words} train tokens instead of 2,088,628"):
        open_corpus(config)
    assert corpus_named("wikitext2").vocab_size(config) == 33_278 + 1
    assert corpus_named("stdlib").vocab_size(DataConfig("stdlib", level=Level.byte, documents=True)) == 257


def test_files_of_text_are_documents_if_asked_for(tmp_path):
    write_splits(tmp_path / "files", ["a b\n", "c\n"], "txt")
    assert open_corpus(corpus_config(tmp_path / "files")).documents == {}
    corpus = open_corpus(corpus_config(tmp_path / "files", documents=True))
    assert texts_of(corpus, "train") == [["a", "b", "<eos>"], ["c", "<eos>"]]
    whole = open_corpus(corpus_config(write_corpus(tmp_path / "one"), Level.byte, documents=True))
    assert len(whole.documents["train"]) == 1


def test_modules_of_the_standard_library_are_documents(tmp_path):
    corpus = open_corpus(DataConfig("stdlib", level=Level.byte, documents=True, cache=str(tmp_path), workers=1))
    paths = [source.path for source in corpus_named("stdlib").find(corpus_named("stdlib").home)["valid"]]
    documents = documents_of(corpus, "valid")
    assert [bytes(ids.astype(np.uint8)) for ids in documents] == [path.read_bytes() for path in paths]


def test_settings_of_corpora_without_documents_are_what_they_were():
    assert set(DataConfig("text").settings()) == {
        "name", "lower", "min_count", "max_vocab", "level", "bpe_size", "vocabulary"
    }  # fmt: skip
    plain = Vocabulary(Level.word, ["a", "<doc>"])
    assert plain.to_json() == '{"level": "word", "symbols": ["a", "<doc>"]}'
    assert plain.start is None and Vocabulary(Level.word, plain.symbols, "<doc>").sha256 == plain.sha256


def test_prepared_documents_are_used_as_data_path_with_the_same_settings(tmp_path):
    corpus = open_corpus(documents_config(write_splits(tmp_path / "files", ["a", "b"], "jsonl"), Level.char))
    again = open_corpus(documents_config(corpus.folder, Level.char, verify=True))
    assert files_of(again) == files_of(corpus) and again.documents["test"].tolist() == [0, 2]
    with pytest.raises(UserError, match=r"text_key is text, not body"):
        open_corpus(documents_config(corpus.folder, Level.char, text_key="body"))
    with pytest.raises(UserError, match=r"documents is True, not None"):
        open_corpus(corpus_config(corpus.folder, Level.char))
    (corpus.folder / "test.starts").write_bytes(bytes(8))
    with pytest.raises(UserError, match=r"test\.starts has 8 bytes instead of 16"):
        open_corpus(documents_config(corpus.folder, Level.char))
    (corpus.folder / "test.starts").write_bytes(bytes(16))
    with pytest.raises(UserError, match=r"test\.starts is not as it was written"):
        open_corpus(documents_config(corpus.folder, Level.char, verify=True))


SCRIPT = """
import sys, time
from tbptt.data.config import Level
from tbptt.data.documents import encoding, pieces
from tbptt.data.documents.config import DocumentsConfig
from tbptt.data.prepare import open_corpus
pieces.CHUNK, whole = 1, encoding.document_symbols
encoding.document_symbols = lambda *settings: time.sleep(0.05) or whole(*settings)
open_corpus(DocumentsConfig("documents", path=sys.argv[1], cache=sys.argv[2], workers=2, level=Level.word))
"""


def test_a_killed_preparation_goes_on_from_its_parts(tmp_path, monkeypatch):
    folder = write_splits(tmp_path / "files", [f"{i % 7} {i}\n" for i in range(40)], "jsonl")
    command = [sys.executable, "-c", SCRIPT, str(folder), f"{folder} cache"]
    process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(CONF.parent)}, start_new_session=True)
    while len(made := list(tmp_path.glob("* cache/*.building/parts/train/*.json"))) < 5 and process.poll() is None:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL and 5 <= len(made) < 120
    again = []
    monkeypatch.setattr(pieces, "CHUNK", 1)
    monkeypatch.setattr(Part, "write", lambda part, *rest, whole=Part.write: again.append(part) or whole(part, *rest))
    corpus = open_corpus(documents_config(folder, Level.word))
    assert len(again) <= 120 - len(made) and not {part.description for part in again} & set(made)
    assert files_of(corpus) == files_of(open_corpus(documents_config(folder, Level.word, cache=f"{tmp_path}/other")))
    assert not (corpus.folder / "parts").exists()


@pytest.mark.parametrize("level", list(Level))
def test_a_text_of_ones_own_is_one_document(tmp_path, level):
    text = "ab <doc> ab\nb ab\n"
    corpus = open_corpus(documents_config(write_splits(tmp_path / "files", [text, "b"], "jsonl"), level))
    (tmp_path / "run").mkdir()
    save_language(corpus, tmp_path / "run")
    language = load_language(tmp_path / "run", corpus.vocabulary.sha256, lower=False)
    (tmp_path / "mine.txt").write_text(text)
    own = open_own_text(tmp_path / "mine.txt", "test", language)
    end = corpus.documents["test"][1]
    assert np.array_equal(own.splits["test"], corpus.splits["test"][:end])
    assert own.documents["test"].tolist() == [0] and own.splits["test"].dtype == corpus.splits["test"].dtype
    assert language.vocabulary.start not in language.read(text, "here")
    decode = decoder(corpus_language(corpus), "", np.zeros(0, np.int64))
    assert "".join([*map(decode.add, corpus.splits["test"].tolist()), decode.end()]).strip() == f"{text}\n\nb"
    if level is Level.byte:
        assert corpus.vocabulary.to_bytes(corpus.splits["test"]) == f"{text}b".encode()


def words_tokenizer(*special: str) -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "b": 1, "?": 2}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(list(special))
    return tokenizer


@pytest.mark.parametrize(
    "special, first, start, size",
    [
        (["<pad>", "<s>", "<|endoftext|>"], None, 4, 6),
        (["<|endoftext|>", "[CLS]"], "[CLS]", 4, 5),
        (["<pad>"], None, 4, 5),
    ],
)
def test_a_given_tokenizer_begins_documents_its_own_way(tmp_path, special, first, start, size):
    tokenizer = words_tokenizer(*special)
    if first:
        pair = (first, tokenizer.token_to_id(first))
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{first} $A", special_tokens=[pair])
    tokenizer.save(str(tmp_path / "given.json"))
    folder = write_splits(tmp_path / "files", ["a b", "", f"a {special[0]} b"], "jsonl")
    corpus = open_corpus(documents_config(folder, Level.bpe, vocabulary=str(tmp_path / "given.json")))
    assert corpus.vocabulary.start == start and len(corpus.vocabulary) == size
    first, second, third = (ids.tolist() for ids in documents_of(corpus, "train"))
    assert (first, second) == ([0, 1], []) and 3 not in third, "what a text says is no special token"
    assert json.loads((corpus.folder / "vocabulary.json").read_text())["start"] == corpus.vocabulary.symbols[start]


def test_a_tokenizer_with_a_gap_in_its_ids_is_refused(tmp_path):
    tokenizer = Tokenizer(models.WordLevel({"<s>": 0, "?": 1, "a": 2, "b": 500}, unk_token="?"))
    tokenizer.add_special_tokens(["<s>"])
    tokenizer.save(str(tmp_path / "given.json"))
    folder = write_splits(tmp_path / "files", ["a b"], "jsonl")
    with pytest.raises(UserError, match="has no entry for the id 3"):
        open_corpus(documents_config(folder, Level.bpe, vocabulary=str(tmp_path / "given.json")))


def test_the_same_text_in_more_files_is_prepared_anew(tmp_path):
    folder = tmp_path / "files"
    for split in SPLITS:
        (folder / split).mkdir(parents=True)
        (folder / split / "a.txt").write_text("one two three")
    before = open_corpus(documents_config(folder, Level.byte))
    (folder / "train/a.txt").write_text("one two")
    (folder / "train/b.txt").write_text(" three")
    after = open_corpus(documents_config(folder, Level.byte))
    assert (len(before.documents["train"]), len(after.documents["train"])) == (1, 2)


def test_a_given_vocabulary_gets_a_start_unless_it_has_one(tmp_path):
    folder = write_splits(tmp_path / "files", ["a b", "b"], "jsonl")
    (tmp_path / "words.txt").write_text("b\na\n<eos>\n")
    corpus = open_corpus(documents_config(folder, Level.word, vocabulary=str(tmp_path / "words.txt")))
    assert corpus.vocabulary.symbols == ["b", "a", "<eos>", "<doc>"]
    again = open_corpus(documents_config(folder, Level.word, vocabulary=str(corpus.folder / "vocabulary.json")))
    assert again.vocabulary == corpus.vocabulary and files_of(again) == files_of(corpus)


def test_a_start_that_the_vocabulary_lacks_is_refused(tmp_path):
    (tmp_path / "vocabulary.json").write_text('{"level": "word", "symbols": ["a"], "start": "<doc>"}')
    folder = write_splits(tmp_path / "files", ["a"], "jsonl")
    with pytest.raises(UserError, match="its start '<doc>' is not one of its symbols"):
        open_corpus(documents_config(folder, Level.word, vocabulary=str(tmp_path / "vocabulary.json")))

"""Documents become streams in which all of them are found again, whatever they say and however they are stored."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tbptt.data.config import Level
from tbptt.data.corpora import SPLITS
from tbptt.data.documents import pieces
from tbptt.data.documents.corpora import document_files
from tbptt.data.documents.texts import file_pieces
from tbptt.data.prepare import PreparedCorpus, open_corpus
from tbptt.errors import UserError
from tests.data.document_files import (
    FORMATS,
    documents_config,
    documents_of,
    files_of,
    texts_of,
    write_documents,
    write_splits,
)
from tests.data.small_corpora import words_of

# Blanks and line ends of many kinds, letters of one to four bytes, and names of start tokens, which are text here.
LETTERS = 'aab\u00e9\u4e16\U0001f600\x00"\\  \n\n\r\t\x1c\x85\u00a0\u2028\u2029\ufeff'
texts = st.text(st.sampled_from(LETTERS), max_size=12) | st.sampled_from(["", "x", "<doc>", "a <doc> b", "<<doc>>\n"])
documents = st.lists(texts, min_size=1, max_size=8).map(lambda some: [*some, "the last\none"])
LONG = [f"{i} " * (i % 5) + "line\n" * (i % 7) + "\u00e9" * (i % 3) for i in range(40)]


def expected(texts: list[str], level: Level) -> list:
    return [words_of(text) if text else [] for text in texts] if level is Level.word else texts


def prepared(folder: Path, level: Level, **settings) -> PreparedCorpus:
    return open_corpus(documents_config(folder, level, **settings))


@pytest.mark.parametrize("ending", FORMATS)
@pytest.mark.parametrize("level", list(Level))
@settings(max_examples=2)
@given(texts=documents)
@example(texts=["", "", "x", "", "a\u2028b\x85c\n", "<doc>", ""])
def test_every_document_is_found_again(level, ending, texts):
    texts = [text.removeprefix("\ufeff") for text in texts]  # at the head of a .txt file it is no text
    with tempfile.TemporaryDirectory() as name:
        corpus = prepared(write_splits(Path(name, "files"), texts, ending), level)
        for split in SPLITS:
            assert texts_of(corpus, split) == expected(texts, level)
        assert corpus.meta["splits"]["test"]["source_bytes"] == len("".join(texts).encode())
        corpus.verify()


@pytest.mark.parametrize("level, ending", [*zip(Level, FORMATS), (Level.bpe, "txt"), (Level.bpe, "jsonl.gz")])
def test_chunks_of_any_size_change_no_token(tmp_path, monkeypatch, level, ending):
    folder = write_splits(tmp_path / "files", LONG[:15], ending)
    whole = files_of(prepared(folder, level))
    for size in (1, 150):
        monkeypatch.setattr(pieces, "CHUNK", size)
        assert files_of(prepared(folder, level, cache=str(tmp_path / f"cache of {size}"))) == whole


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.zst", "parquet"])
def test_any_number_of_processes_gives_the_same_files(tmp_path, monkeypatch, ending):
    monkeypatch.setattr(pieces, "CHUNK", 100)
    folder, level = write_splits(tmp_path / "files", LONG[:15], ending), Level.bpe if ending == "jsonl" else Level.word
    one, two = (files_of(prepared(folder, level, workers=n, cache=str(tmp_path / str(n)))) for n in (1, 2))
    assert one == two


@pytest.mark.parametrize("level", list(Level))
def test_every_format_gives_the_same_files(tmp_path, monkeypatch, level):
    monkeypatch.setattr(pieces, "PIECE", 20)  # most are cut, at the same places
    made = [files_of(prepared(write_splits(tmp_path / ending, LONG, ending), level)) for ending in FORMATS]
    assert all(files == made[0] for files in made[1:])


@given(st.lists(st.sampled_from(["a", "\n", "\u00e9", "bb\n"])).map("".join), st.integers(1, 9))
def test_pieces_are_the_document_and_end_at_lines(text, size):
    with pytest.MonkeyPatch.context() as patch, tempfile.NamedTemporaryFile() as file:
        patch.setattr(pieces, "PIECE", size)
        cut = pieces.cut(text.encode())
        file.write(text.encode())
        file.flush()
        assert [source.read() for source in file_pieces(Path(file.name))] == cut
    assert b"".join(cut) == text.encode() and len(cut) >= 1
    assert all(piece.endswith(b"\n") and len(piece) >= size for piece in cut[:-1])


def test_a_long_document_has_one_start(tmp_path, monkeypatch):
    monkeypatch.setattr(pieces, "PIECE", 10)
    corpus = prepared(write_splits(tmp_path / "files", ["a line\n" * 50, "b"], "jsonl"), Level.byte)
    assert corpus.documents["train"].tolist() == [0, 351] and texts_of(corpus, "train") == ["a line\n" * 50, "b"]


def test_files_are_read_in_order_of_their_names_and_numbered_on(tmp_path):
    for name, ending in (("b/2", "parquet"), ("a", "jsonl"), ("b/1", "jsonl.gz"), ("c", "txt"), ("d", "jsonl.zst")):
        write_documents(tmp_path / f"files/{name}.{ending}", [f"{name} {i}" for i in range(3)])
    corpus = prepared(tmp_path / "files", Level.byte, held_out=0.25)
    texts = [f"{name} {i}" for name in ("a", "b/1", "b/2", "c", "d") for i in range(3)]
    assert texts_of(corpus, "valid") == texts[3::4] and texts_of(corpus, "test") == texts[1::4]
    assert texts_of(corpus, "train") == [text for i, text in enumerate(texts) if i % 4 not in (1, 3)]


@pytest.mark.parametrize("level", list(Level))
def test_held_out_documents_are_not_of_train_however_it_is_cut(tmp_path, monkeypatch, level):
    write_documents(tmp_path / "files/train.jsonl", texts := [f"d{i}\n" for i in range(200)])
    vocabulary = {"min_count": 1, "max_vocab": 150} if level is Level.word else {}
    whole = prepared(tmp_path / "files", level, held_out=0.05, **vocabulary)
    assert [len(whole.documents[split]) for split in SPLITS] == [180, 10, 10]
    monkeypatch.setattr(pieces, "CHUNK", 200)
    cut = prepared(tmp_path / "files", level, held_out=0.05, cache=str(tmp_path / "cut"), **vocabulary)
    assert files_of(cut) == files_of(whole)
    if level is not Level.word:
        assert sorted(text for split in SPLITS for text in texts_of(whole, split)) == sorted(texts)
    else:
        held_out = {f"d{i}" for i in range(200) if i % 20 in (9, 19)}
        assert not held_out & set(whole.vocabulary.symbols), "a word of train alone is in its vocabulary"


@pytest.mark.parametrize("blank", ["{}\n\n", "\n{}\n", "\ufeff\n{}\n \t\n"])
def test_blank_lines_are_no_documents_that_could_be_held_out(tmp_path, monkeypatch, blank):
    texts = [f"d{i}" for i in range(40)]
    write_documents(tmp_path / "files/train.jsonl", texts)
    lines = (tmp_path / "files/train.jsonl").read_text().splitlines()
    plain = prepared(tmp_path / "files", Level.byte, held_out=0.1)
    (tmp_path / "files/train.jsonl").write_text("".join(map(blank.replace("\ufeff", "").format, lines)))
    for size in (pieces.CHUNK, 30):
        monkeypatch.setattr(pieces, "CHUNK", size)
        spaced = prepared(tmp_path / "files", Level.byte, held_out=0.1, cache=str(tmp_path / f"cache {size}"))
        assert all(texts_of(spaced, split) == texts_of(plain, split) for split in SPLITS)


def test_only_the_split_that_is_missing_is_held_out(tmp_path):
    write_documents(tmp_path / "files/train.jsonl", [str(i) for i in range(40)])
    write_documents(tmp_path / "files/test.parquet", ["of its own", "two"])
    corpus = prepared(tmp_path / "files", Level.byte, held_out=0.1)
    assert texts_of(corpus, "test") == ["of its own", "two"] and texts_of(corpus, "valid") == ["9", "19", "29", "39"]


def test_settings_without_effect_are_warned_of(tmp_path, caplog):
    prepared(write_splits(tmp_path / "files", ["a", "b"], "txt"), Level.byte, held_out=0.1, text_key="body")
    assert "data.held_out=0.1 has no effect" in caplog.text and "data.text_key=body has no effect" in caplog.text


def test_files_without_any_document_are_said_to_be_empty(tmp_path):
    write_splits(tmp_path / "files", ["a"], "jsonl")
    (tmp_path / "files/train.jsonl").write_text("\n\n")
    with pytest.raises(UserError, match="no documents in train: its files are empty"):
        prepared(tmp_path / "files", Level.byte)


def test_too_few_documents_to_hold_some_out_is_said_so(tmp_path):
    write_documents(tmp_path / "files/train.jsonl", ["one", "two", "three"])
    with pytest.raises(UserError, match=r"no documents in valid, neither in files nor as data\.held_out=0\.005"):
        prepared(tmp_path / "files", Level.byte)
    assert not list(Path(f"{tmp_path}/files cache").glob("*.building"))


@pytest.mark.parametrize("level", [Level.char, Level.word])
def test_lower_case_and_rare_symbols_as_in_text(tmp_path, level):
    folder = write_splits(tmp_path / "files", ["\u0391\u03a3 \u03a3", "A B a\nb", "once"], "jsonl")
    corpus = prepared(folder, level, lower=True)
    assert texts_of(corpus, "valid") == expected(["\u03b1\u03c2 \u03c3", "a b a\nb", "once"], level)
    rare = prepared(folder, level, lower=True, min_count=2)
    assert rare.vocabulary.unknown is not None and rare.meta["splits"]["train"]["unknown"] > 0
    assert [len(ids) for ids in documents_of(rare, "test")] == [len(ids) for ids in documents_of(corpus, "test")]
    assert np.array_equal(rare.documents["test"], corpus.documents["test"])


def test_files_that_are_left_out_are_named_once(tmp_path, caplog):
    for name in ("a.jsonl", "b.json", "more/c.csv", "README.md", ".hidden.csv"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text('{"text": "A text."}', encoding="utf-8")
    for _ in range(2):
        assert document_files(tmp_path) == [tmp_path / "a.jsonl"]
    (message,) = caplog.messages
    assert "left out (.csv, .json)" in message and str(tmp_path) in message
    assert document_files(tmp_path / "more") == [] and len(caplog.messages) == 1

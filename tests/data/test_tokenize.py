"""Token files are a function of the text alone: not of how many processes made them, and not of chunks."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tbptt.data import writing
from tbptt.data.config import Level
from tbptt.data.prepare import open_corpus
from tbptt.data.sources import Source, chunks
from tests.data.small_corpora import corpus_config, cut_into, decoded, files_of, words_of, write_corpus
from tests.helpers import CONF

# Letters of one to four bytes, some that change in lower case with their neighbours, and blanks of many kinds.
alphabet = st.sampled_from("aaabbΑΣσİ\u0301é世😀\x00  \n\n\r\t\x0b\x0c\x1c\x85\u00a0\u2028\u3000\ufeff")
texts = st.text(alphabet | st.characters(exclude_categories=["Cs"]), min_size=2, max_size=60)


def expected(text: str, level: Level) -> list[str]:
    return words_of(text) if level is Level.word else list(text)


@pytest.mark.parametrize("level", [Level.word, Level.char])
@pytest.mark.parametrize("lower", [False, True])
@given(text=texts, size=st.integers(1, 30))
@example(text="ΑΣΑ", size=4)  # cut behind a letter that is another one at the end of a word
def test_chunks_of_any_size_give_what_the_text_says(level, lower, text, size):
    text += "\n\n" * (level is Level.word)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        config = corpus_config(write_corpus(Path(folder), text, text, text), level, lower=lower)
        whole = open_corpus(config)
        assert decoded(whole, "valid") == expected(text.lower() if lower else text, level)
        patch.setattr(writing, "chunks", cut_into(size))
        config.cache += " of chunks"
        assert files_of(open_corpus(config)) == files_of(whole)


@pytest.mark.parametrize("level", [Level.word, Level.char])
@given(text=texts, size=st.integers(1, 30))
def test_chunks_follow_each_other_and_cut_no_symbol(level, text, size):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "text"
        path.write_bytes(text.encode())
        pieces = [piece.read() for piece in chunks([Source(path)], level, size)]
    assert b"".join(pieces) == text.encode() and all(pieces)
    assert [symbol for piece in pieces for symbol in expected(piece.decode(), level)] == expected(text, level)
    longest = max([1, *(len(line.encode()) + 1 for line in text.split("\n"))]) if level is Level.word else 4
    assert all(len(piece) < size + longest for piece in pieces)


@pytest.mark.parametrize("level", [Level.word, Level.char])
def test_any_number_of_processes_gives_the_same_files(tmp_path, monkeypatch, level):
    monkeypatch.setattr(writing, "chunks", cut_into(50))
    text = (CONF.parent / "README.md").read_text()[:3000] + "Ünï 世界😀\r\n"
    write_corpus(tmp_path, text, text, text)
    one, two, three = (
        open_corpus(corpus_config(tmp_path, level, workers=workers, cache=str(tmp_path / f"cache {workers}")))
        for workers in (1, 2, 3)
    )
    assert files_of(one) == files_of(two) == files_of(three)
    assert decoded(two, "train") == expected(text, level)

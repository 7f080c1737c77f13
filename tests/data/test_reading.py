"""A byte order mark at the head of a user's file is no part of its text; a file that is not UTF-8 is refused."""

from pathlib import Path

import pytest

from tbptt.data import writing
from tbptt.data.config import Level
from tbptt.data.corpora import SPLITS
from tbptt.data.fairseq import read_dictionary
from tbptt.data.language import corpus_language
from tbptt.data.own_text import read_own_text
from tbptt.data.prepare import open_corpus
from tbptt.data.vocabulary import Vocabulary
from tbptt.errors import UserError
from tbptt.generation.config import SampleConfig
from tbptt.interop.foreign import read_json, read_vocabulary
from tests.data.small_corpora import corpus_config, cut_into, files_of, write_corpus

MARK, TEXT = "\ufeff", "the caf\u00e9 a b\n\na \ufeff the\n"  # the mark within the text is a character of it
LATIN = "caf\u00e9".encode("latin-1")  # its byte 3 is not UTF-8


@pytest.mark.parametrize("level", [Level.word, Level.char, Level.bpe])
@pytest.mark.parametrize("settings", [{}, {"lower": True}, {"min_count": 2}])
def test_marks_of_texts_are_left_out(tmp_path, monkeypatch, level, settings):
    monkeypatch.setattr(writing, "chunks", cut_into(1))
    if level is Level.bpe:
        settings = {"bpe_size": 257, "lower": settings.get("lower", False)}
    plain = open_corpus(corpus_config(write_corpus(tmp_path / "plain", *[TEXT] * 3), level, **settings))
    marked = open_corpus(corpus_config(write_corpus(tmp_path / "marked", *[MARK + TEXT] * 3), level, **settings))
    assert files_of(marked) == files_of(plain)
    (tmp_path / "own.txt").write_text(MARK + TEXT, encoding="utf-8")
    own = read_own_text(tmp_path / "own.txt", corpus_language(plain))
    assert own.tolist() == plain.splits["test"].tolist()


def test_every_file_of_a_split_may_have_a_mark(tmp_path):
    for split in SPLITS:
        write_corpus(tmp_path / split, *[MARK + TEXT] * 3, pattern="{}.part.txt")
    whole = write_corpus(tmp_path / "whole", *[TEXT * 3] * 3)
    assert files_of(open_corpus(corpus_config(tmp_path))) == files_of(open_corpus(corpus_config(whole)))


def test_bytes_are_those_of_the_file(tmp_path):
    corpus = open_corpus(corpus_config(write_corpus(tmp_path, *[MARK + TEXT] * 3), Level.byte))
    assert corpus.splits["train"].tobytes() == (MARK + TEXT).encode()
    assert read_own_text(tmp_path / "test.txt", corpus_language(corpus)).tobytes() == (MARK + TEXT).encode()


def test_token_files_of_a_version_that_kept_marks_are_made_anew(tmp_path):
    config = corpus_config(write_corpus(tmp_path, *[MARK + TEXT] * 3))
    corpus = open_corpus(config)
    meta = corpus.folder / "meta.json"
    meta.write_text(meta.read_text().replace(' "without_marks": true,\n', ""))
    before = meta.stat().st_ino
    assert files_of(open_corpus(config)) == files_of(corpus) and meta.stat().st_ino != before
    before = meta.stat().st_ino
    open_corpus(config)
    assert meta.stat().st_ino == before


def vocabulary_readers(folder: Path) -> dict[str, tuple[Path, str]]:
    """By the name of a file: where it is, and what it holds."""
    contents = {
        "list": "<eos>\n<unk>\ncaf\u00e9 17\n",
        "vocab.txt": "<eos>\r\n<unk>\r\ncaf\u00e9\r\n",
        "dict.txt": "caf\u00e9 17\nb 3\n",
        "vocabulary.json": Vocabulary(Level.word, ["<eos>", "<unk>", "caf\u00e9"]).to_json(),
    }
    return {name: (folder / name, content) for name, content in contents.items()}


@pytest.mark.parametrize("name", ["list", "vocab.txt", "dict.txt", "vocabulary.json"])
def test_a_mark_of_a_vocabulary_is_left_out(tmp_path, name):
    path, content = vocabulary_readers(tmp_path)[name]
    found = []
    for mark in ("", MARK):
        path.write_bytes((mark + content).encode())
        if name == "list":
            config = corpus_config(write_corpus(tmp_path / "text", *[TEXT] * 3), vocabulary=str(path))
            found.append(open_corpus(config).vocabulary.symbols)
        else:
            found.append(read_vocabulary(path).symbols)
    assert found[0] == found[1] and "caf\u00e9" in found[0]


def test_a_mark_of_a_tokenizer_is_left_out(tmp_path):
    folder = write_corpus(tmp_path / "text", *[TEXT] * 3)
    trained = open_corpus(corpus_config(folder, Level.bpe, bpe_size=260))
    given = tmp_path / "given.json"
    given.write_text(MARK + (trained.folder / "tokenizer.json").read_text(encoding="utf-8"), encoding="utf-8")
    assert files_of(open_corpus(corpus_config(folder, Level.bpe, vocabulary=str(given)))) == files_of(trained)


def test_marks_of_settings_and_prompts_are_left_out(tmp_path):
    (tmp_path / "args.json").write_text(MARK + '{"n_layer": 2}', encoding="utf-8")
    assert read_json(tmp_path / "args.json", "import.config") == {"n_layer": 2}
    (tmp_path / "prompt.txt").write_text(MARK + "caf\u00e9\r\n", encoding="utf-8", newline="")
    assert SampleConfig(prompt_file=str(tmp_path / "prompt.txt")).read_prompt(None) == "caf\u00e9\r\n"


@pytest.mark.parametrize("head, byte", [(b"", 3), (MARK.encode(), 6)])
def test_what_is_not_utf8_is_refused_with_file_and_byte(tmp_path, head, byte):
    path = tmp_path / "latin"
    path.write_bytes(head + LATIN + b" 1\n")
    (tmp_path / "dict.txt").write_bytes(head + LATIN + b" 1\n")
    folder = write_corpus(tmp_path / "text")
    language = corpus_language(open_corpus(corpus_config(folder)))
    for read in (
        corpus_config(folder, vocabulary=str(path)).check,
        corpus_config(folder, Level.bpe, vocabulary=str(path)).check,
        lambda: read_dictionary(tmp_path / "dict.txt"),
        lambda: read_json(path, "import.config"),
        lambda: read_own_text(path, language),
        lambda: SampleConfig(prompt_file=str(path)).read_prompt(None),
    ):
        with pytest.raises(UserError, match=rf"(latin|dict\.txt) is not UTF-8 text \(.* at byte {byte}\)"):
            read()


def test_what_cannot_be_read_is_refused_with_its_name(tmp_path):
    for read in (
        lambda: read_json(tmp_path, "import.config"),
        lambda: read_dictionary(tmp_path),
        lambda: read_vocabulary(tmp_path / "none.txt"),
        lambda: read_vocabulary(tmp_path / "none.json"),
        lambda: SampleConfig(prompt_file=str(tmp_path)).read_prompt(None),
    ):
        with pytest.raises(UserError, match=rf"{tmp_path}.*(Is a directory|No such file)"):
            read()

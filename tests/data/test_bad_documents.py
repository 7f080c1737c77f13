"""Documents that cannot be read are told of in one sentence, with file and line; nothing half-prepared stays."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from hydra.errors import ConfigCompositionException

from tbptt.data.acquire import check_corpus
from tbptt.data.config import DataConfig, Level
from tbptt.data.documents import pieces
from tbptt.data.documents.config import DocumentsConfig, HubConfig
from tbptt.data.prepare import open_corpus
from tbptt.errors import UserError
from tests.commands import run
from tests.data.document_files import documents_config, json_lines, write_documents, write_splits
from tests.helpers import composed

GOOD = json_lines(["one", "two"])


def sentence(folder: Path, level: Level = Level.byte, **settings) -> str:
    """The error of preparing a folder, after which the cache has nothing of it."""
    config = documents_config(folder, level, **settings)
    with pytest.raises(UserError) as error:
        check_corpus(config)
        open_corpus(config)
    assert "\n" not in str(error.value)
    assert not [path for path in Path(config.cache).glob("*") if path.is_dir()]
    return str(error.value)


@pytest.mark.parametrize(
    "line, said",
    [
        (b"one", "is not JSON (Expecting value"),
        (b'{"text": "a"', "is not JSON"),
        (b'{"text": "a"} {"text": "b"}', "is not JSON (Extra data"),
        (b"[" * 100_000, "is not JSON"),
        (b"null", "is null, but every line must be one object with a text 'text'"),
        (b'["a"]', "is a list, but every line must be one object"),
        (b'{"body": "a", "id": 1}', "has no key 'text' (its keys: 'body', 'id'): set data.text_key"),
        (b'{"text": null}', "'text' must be a text, not null"),
        (b'{"text": 3.5}', "'text' must be a text, not a number"),
        (b'{"text": true}', "'text' must be a text, not true or false"),
        (b'{"text": {"text": "a"}}', "'text' must be a text, not an object"),
        (b'{"text": "\xff"}', "is not UTF-8 text (invalid start byte at byte 10)"),
        (b'{"text": "\\ud800"}', "half of a surrogate pair"),
    ],
)
@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz"])
def test_a_line_that_is_no_document(tmp_path, monkeypatch, ending, line, said):
    monkeypatch.setattr(pieces, "CHUNK", 20)
    path = tmp_path / f"files/train.{ending}"
    path.parent.mkdir()
    content = GOOD + b"\n" + GOOD + line + b"\n" + GOOD
    path.write_bytes(gzip.compress(content) if ending == "jsonl.gz" else content)
    found = sentence(path.parent)
    assert found.startswith(f"{path}, line 6") and said in found


@pytest.mark.parametrize("ending", ["jsonl.gz", "jsonl.zst"])
@pytest.mark.parametrize("damage", ["cut", "other", "empty", "tail"])
def test_a_packed_file_that_is_damaged(tmp_path, monkeypatch, ending, damage):
    monkeypatch.setattr(pieces, "CHUNK", 20)
    path = tmp_path / f"files/train.{ending}"
    write_documents(path, [f"{i} {i * 7919}" for i in range(500)])
    content = path.read_bytes()
    path.write_bytes({"cut": content[:-9], "other": b"hello\n", "empty": b"", "tail": content + b"more"}[damage])
    found = sentence(path.parent)
    assert str(path) in found and "damaged or not complete" in found


def test_a_preparation_by_several_processes_says_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(pieces, "CHUNK", 20)
    write_splits(tmp_path / "files", ["a", "b"], "jsonl")
    with open(tmp_path / "files/test.jsonl", "ab") as file:
        file.write(b"{}\n" + GOOD * 20)
    assert f"{tmp_path}/files/test.jsonl, line 3 has no key 'text'" in sentence(tmp_path / "files", workers=2)


def test_parquet_without_the_column_or_with_another_kind(tmp_path):
    folder = tmp_path / "files/train"
    folder.mkdir(parents=True)
    write_documents(folder / "a.parquet", ["a", "b"])
    parquet.write_table(pa.table({"body": ["a"]}), folder / "b.parquet")
    found = sentence(folder.parent)
    assert found == f"{folder}/b.parquet has no column 'text' (its columns: body): set data.text_key"
    parquet.write_table(pa.table({"text": [1, 2]}), folder / "b.parquet")
    found = sentence(folder.parent)
    assert found.startswith(f"{folder}/b.parquet: column 'text' is of type int64, but must be text")
    parquet.write_table(pa.table({"text": ["a", "b", None]}), folder / "b.parquet", row_group_size=2)
    assert sentence(folder.parent).startswith(f"{folder}/b.parquet, row 3: 'text' must be a text, not null")
    invalid = pa.array([b"a", b"\xff"]).view(pa.string())
    parquet.write_table(pa.table({"text": invalid}), folder / "b.parquet")
    assert sentence(folder.parent).startswith(f"{folder}/b.parquet, row 2, is not UTF-8 text")
    (folder / "b.parquet").write_bytes((folder / "a.parquet").read_bytes()[:-20])
    assert "b.parquet cannot be read as parquet" in sentence(folder.parent)


def test_other_kinds_of_text_columns_are_text(tmp_path):
    write_splits(tmp_path / "files", ["a", "b"], "parquet")
    (tmp_path / "files/train.parquet").unlink()
    (tmp_path / "files/train").mkdir()
    for i, kind in enumerate([pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())]):
        table = pa.table({"text": pa.array(["a", "b"] * 4).cast(kind)})
        parquet.write_table(table, tmp_path / f"files/train/{i}.parquet")
    corpus = open_corpus(documents_config(tmp_path / "files", Level.byte))
    assert corpus.splits["train"].tolist() == [256, 97, 256, 98] * 12


def test_a_text_file_that_is_not_utf8(tmp_path):
    write_splits(tmp_path / "files", ["a", "b"], "txt")
    bad = tmp_path / "files/train/001.txt"
    bad.write_bytes(b"ab\xff")
    assert f"{bad} is not UTF-8 text (invalid start byte at byte 2)" in sentence(tmp_path / "files", Level.char)
    assert open_corpus(documents_config(tmp_path / "files", Level.byte)).splits["train"].tolist()[-2:] == [98, 255]


def test_folders_without_documents_or_with_two_of_a_kind(tmp_path):
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "notes.md").write_text("no document")
    assert "must be a folder with train, valid and test" in sentence(folder)
    write_documents(folder / "valid.jsonl", ["a"])
    assert "must be a folder with train, valid and test" in sentence(folder)
    write_documents(folder / "train.jsonl", ["a"])
    write_documents(folder / "train.jsonl.gz", ["a"])
    assert sentence(folder) == f"{folder} has the split train twice, as train.jsonl and as train.jsonl.gz: " \
        "remove one of them"  # fmt: skip
    for name in ("train.jsonl", "train.jsonl.gz", "valid.jsonl"):
        (folder / name).unlink()
    write_documents(folder / "data/test-00000-of-00001.parquet", ["a"])
    assert f"use data.path={folder}/data" in sentence(folder)
    write_documents(folder / "more/a.jsonl", ["a"])
    write_documents(folder / "more/a.parquet", ["a"])
    assert "seem to have the same documents" in sentence(folder / "more")


@pytest.mark.parametrize(
    "settings, said",
    [
        ({"documents": False}, "remove data.documents=false"),
        ({"text_key": ""}, "data.text_key is empty"),
        ({"held_out": 0.0}, "data.held_out=0.0 must be"),
        ({"held_out": 0.5}, "data.held_out=0.5 must be"),
        ({"path": None}, "needs data.path=FOLDER"),
        ({"path": "/nowhere"}, "data.path=/nowhere does not exist"),
    ],
)
def test_settings_that_cannot_be(tmp_path, settings, said):
    write_splits(tmp_path / "files", ["a", "b"], "jsonl")
    with pytest.raises(UserError, match=said.replace(".", r"\.")):
        check_corpus(documents_config(tmp_path / "files", Level.byte, **settings))


def test_documents_where_the_text_shows_none():
    for name, level in (("enwik8", Level.byte), ("text8", Level.char), ("lm1b", Level.word), ("ptb", Level.word)):
        with pytest.raises(UserError, match=f"data={name} does not show documents: remove data.documents=true"):
            check_corpus(DataConfig(name, level=level, documents=True))
    with pytest.raises(UserError, match=r"data\.name=documents cannot be set: use data=documents"):
        check_corpus(DataConfig("documents"))
    with pytest.raises(UserError, match=r"data\.name=hub cannot be set: use data=hub"):
        check_corpus(DocumentsConfig("hub", path="."))


def test_a_command_ends_with_the_sentence(tmp_path):
    write_splits(tmp_path / "files", ["a", "b"], "jsonl")
    with open(tmp_path / "files/valid.jsonl", "a") as file:
        file.write(json.dumps({"text": 1}))
    words = ("task=prepare", "data=documents", "data.path=files", "data.level=byte", "data.workers=1")
    printed = run(tmp_path, *words, code=1)
    assert "files/valid.jsonl, line 3: 'text' must be a text, not a number" in printed and "Traceback" not in printed
    write_documents(tmp_path / "files/valid.jsonl", ["c", "d", "e"])
    printed = run(tmp_path, *words)
    assert "valid: 6 tokens in 3 documents" in printed


def test_settings_of_documents_are_unknown_to_other_corpora():
    assert composed("data=documents", "data.text_key=body", "data.path=x").data.text_key == "body"
    assert isinstance(composed("data=pg19").data, HubConfig)
    with pytest.raises(ConfigCompositionException):
        composed("data=text", "data.text_key=body")

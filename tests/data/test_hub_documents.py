"""Data sets of the hub become documents, streamed and resumed; here they are folders, which the library reads alike."""

import gzip
import sys
from pathlib import Path

import pytest

from tbptt.data.acquire import check_corpus
from tbptt.data.config import Level
from tbptt.data.documents import hub
from tbptt.data.documents.config import HubConfig
from tbptt.data.prepare import PreparedCorpus, open_corpus
from tbptt.errors import UserError
from tests.data.document_files import json_lines, texts_of, write_documents

TEXTS = [f"document {i}\n\u2028 \u4e16 {'x' * (i % 5)}" for i in range(60)]


@pytest.fixture(autouse=True, scope="module")
def library(tmp_path_factory):
    """The library, if it is installed, with a cache of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HOME", str(tmp_path_factory.mktemp("hf")))
        yield pytest.importorskip("datasets")


def hub_config(folder: Path, **settings) -> HubConfig:
    given = {"name": "hub", "repo": str(folder / "repo"), "cache": str(folder / "cache"), "workers": 1}
    return HubConfig(**given | {"level": Level.byte, "held_out": 0.1} | settings)


def prepared(folder: Path, **settings) -> PreparedCorpus:
    config = hub_config(folder, **settings)
    check_corpus(config)
    return open_corpus(config)


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_the_splits_of_a_data_set(tmp_path, ending):
    for split, texts in (("train", TEXTS), ("validation", TEXTS[:3]), ("test", TEXTS[3:5])):
        write_documents(tmp_path / f"repo/{split}.{ending}", texts, key="body")
    corpus = prepared(tmp_path, text_key="body")
    assert texts_of(corpus, "train") == TEXTS
    assert texts_of(corpus, "valid") == TEXTS[:3] and texts_of(corpus, "test") == TEXTS[3:5]
    other = prepared(tmp_path, text_key="body", train_split="test", test_split="train")
    assert texts_of(other, "train") == TEXTS[3:5] and texts_of(other, "test") == TEXTS


def test_a_data_set_of_one_split_holds_out_a_share(tmp_path):
    write_documents(tmp_path / "repo/data.parquet", TEXTS)
    corpus = prepared(tmp_path)
    assert texts_of(corpus, "valid") == TEXTS[9::10] and texts_of(corpus, "test") == TEXTS[4::10]
    assert texts_of(corpus, "train") == [text for i, text in enumerate(TEXTS) if i % 10 not in (4, 9)]


def test_a_configuration_is_chosen(tmp_path):
    write_documents(tmp_path / "repo/one/train.jsonl", TEXTS[:20])
    write_documents(tmp_path / "repo/two/train.jsonl", TEXTS[20:])
    names = ("one", "two")
    configs = "".join(f"- config_name: {name}\n  data_files: {name}/train.jsonl\n" for name in names)
    (tmp_path / "repo/README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    with pytest.raises(UserError, match=r"data\.repo=.*Config name is missing"):
        prepared(tmp_path)
    documents = [
        text for split in ("train", "valid", "test") for text in texts_of(prepared(tmp_path, config="two"), split)
    ]
    assert sorted(documents) == sorted(TEXTS[20:])


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_an_interrupted_download_goes_on(tmp_path, monkeypatch, ending):
    for i in range(3):
        write_documents(tmp_path / f"repo/train/{i}.{ending}", TEXTS[20 * i : 20 * i + 20])
    monkeypatch.setattr(hub, "FILE_BYTES", 100)
    whole = prepared(tmp_path, cache=str(tmp_path / "whole"))
    written = []

    def write(texts, *rest, write=hub._write):
        if len(written) == 4:
            raise KeyboardInterrupt
        written.append(texts)
        write(texts, *rest)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(hub, "_write", write)
        prepared(tmp_path)
    first = {path: path.stat().st_mtime_ns for path in tmp_path.glob("cache/sources/*/*.building/train/*.parquet")}
    assert len(first) == 4
    corpus = prepared(tmp_path)
    kept = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("cache/sources/*/downloaded/train/*.parquet")}
    assert {path.name: time for path, time in first.items()}.items() <= kept.items()
    for split in ("train", "valid", "test"):
        assert texts_of(corpus, split) == texts_of(whole, split)
    assert not list(tmp_path.glob("cache/sources/*/*/*/progress*"))


def test_a_row_without_text_and_names_that_are_not_there(tmp_path):
    write_documents(tmp_path / "repo/train.jsonl", TEXTS)
    with pytest.raises(UserError, match=r"has no column 'body' \(its columns: id, text\): set data\.text_key"):
        prepared(tmp_path, text_key="body")
    with pytest.raises(UserError, match=r"data\.valid_split=dev is not a split of .*: it has train"):
        prepared(tmp_path, valid_split="dev")
    (tmp_path / "repo/train.jsonl").write_bytes(json_lines(["a"]) + b'{"id": 1, "text": null}\n')
    with pytest.raises(UserError, match=r"repo, train, row 2: 'text' must be a text, not null"):
        prepared(tmp_path)
    (tmp_path / "repo/train.jsonl").rename(tmp_path / "repo/other")
    with pytest.raises(UserError, match=r"data\.repo=.* cannot be read from the Hugging Face hub") as error:
        prepared(tmp_path)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.glob("cache/sources/*/*"))


def test_books_in_the_folders_of_their_home(tmp_path):
    for split, count in (("train", 5), ("validation", 2), ("test", 3)):
        write_documents(tmp_path / f"books/{split}.txt", [f"book {i} of {split}\n" for i in range(count)])
    settings = {"name": "pg19", "path": str(tmp_path / "books"), "repo": None}
    with pytest.raises(UserError, match=r"not PG-19 as published: 5 documents in train instead of 28,602, 2 .* 50, 3"):
        prepared(tmp_path, **settings)
    corpus = prepared(tmp_path, check_counts=False, **settings)
    assert texts_of(corpus, "valid") == [f"book {i} of validation\n" for i in range(2)]


def test_books_from_the_hub(tmp_path):
    for split, texts in (("train", TEXTS[:9]), ("validation", TEXTS[:2]), ("test", TEXTS[:3])):
        write_documents(tmp_path / f"repo/{split}.parquet", texts)
    corpus = prepared(tmp_path, name="pg19", check_counts=False)
    assert [len(corpus.documents[split]) for split in ("train", "valid", "test")] == [9, 2, 3]


def test_without_the_library_or_a_name_it_is_said_so(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"data=hub needs data\.repo=OWNER/NAME"):
        prepared(tmp_path, repo=None)
    with pytest.raises(UserError, match=r"takes no data\.url.*HF_ENDPOINT"):
        prepared(tmp_path, url="http://127.0.0.1:9")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[download\]'.*data\.path=FOLDER"):
        prepared(tmp_path)


def test_a_packed_file_of_the_hub(tmp_path):
    (tmp_path / "repo").mkdir()
    (tmp_path / "repo/train.json.gz").write_bytes(gzip.compress(json_lines(TEXTS)))
    assert len(prepared(tmp_path).documents["train"]) == 48

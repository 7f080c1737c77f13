"""Every corpus is found as it was distributed: its files, its archive, or a mirror of it, which is asked once."""

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from tbptt.data.config import Level
from tbptt.data.corpora import CORPORA, SPLITS, Archive, Published
from tbptt.data.prepare import open_corpus
from tbptt.errors import UserError
from tests.data.archives import MEMBERS, TEST, TRAIN, VALID, archive_of, check, config_of

pytestmark = pytest.mark.usefixtures("small_corpora")


@pytest.mark.parametrize("depth", ["", "a folder"])
@pytest.mark.parametrize("name", MEMBERS)
def test_unpacked_files_are_found(tmp_path, name, depth):
    for member, content in MEMBERS[name].items():
        parts = Path(member).parts[-2 if name == "lm1b" else -1 :]
        path = tmp_path.joinpath("data", depth, *parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    check(config_of(tmp_path, name, path=str(tmp_path / "data")))
    assert not (tmp_path / "cache" / "sources").exists(), "files were copied"


@pytest.mark.parametrize("name", MEMBERS)
def test_an_archive_is_unpacked_once(tmp_path, name):
    file, content = archive_of(name)
    (tmp_path / file).write_bytes(content)
    config = config_of(tmp_path, name, path=str(tmp_path))
    check(config)
    unpacked = [path for path in (tmp_path / "cache/sources" / name).rglob("*") if path.is_file()]
    kept = [path for path in unpacked if b"not this" not in path.read_bytes() and path.name != ".unpacked"]
    assert len(kept) == {"enwik8": 1, "text8": 1, "lm1b": 2}.get(name, 3) and len(unpacked) == len(kept) + 1
    before = {path: path.stat().st_ino for path in unpacked}
    check(config)
    assert {path: path.stat().st_ino for path in unpacked} == before


# The mirror of a dataset of the hub is a hub (tests/data/test_hub.py), or else a full address.
@pytest.mark.parametrize(
    "name, address",
    [(name, "folder/{}") for name in MEMBERS]
    + [(name, address) for name in MEMBERS if not name.startswith("wikitext") for address in ("folder", "folder/")],
)
def test_a_mirror_is_asked_once(tmp_path, site, name, address):
    file, content = archive_of(name)
    site.files[f"folder/{file}"] = content
    config = config_of(tmp_path, name, url=f"{site.url}/{address.format(file)}")
    check(config)
    check(config)
    assert site.requests == [("GET", f"folder/{file}", None)]
    config.min_count = 1 + (config.level is not Level.byte)  # other token files of the same source
    open_corpus(config)
    assert len(site.requests) == 1


@pytest.mark.parametrize("published", ["size", "sha256"])
def test_another_archive_than_published_is_refused(tmp_path, site, monkeypatch, published):
    file, content = archive_of("enwik8")
    site.files[file] = content
    expected = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    wrong = expected | {published: {"size": 12_345, "sha256": "0" * 64}[published]}
    for given in (wrong, expected):
        monkeypatch.setitem(CORPORA, "enwik8", replace(CORPORA["enwik8"], archive=Archive(file, "http://x", **given)))
        config = config_of(tmp_path, "enwik8", url=site.url)
        if given is expected:
            check(config)
        else:
            with pytest.raises(UserError, match=rf"{len(content)} bytes .*12,345|{expected['sha256']} .*{'0' * 64}"):
                open_corpus(config)


@pytest.mark.parametrize("name", ["enwik8", "text8"])
def test_a_corpus_of_one_file_must_have_its_size(tmp_path, name):
    (tmp_path / name).write_bytes(TRAIN + VALID + TEST + b"x")
    size = len(TRAIN + VALID + TEST)
    with pytest.raises(UserError, match=rf"{name} has {size + 1} bytes, but {name} has {size}"):
        open_corpus(config_of(tmp_path, name, path=str(tmp_path)))


def test_other_counts_than_published_are_refused_unless_meant(tmp_path, monkeypatch):
    for split, text in zip(SPLITS, (TRAIN, VALID, TEST)):
        (tmp_path / f"ptb.{split}.txt").write_bytes(text)
    config = config_of(tmp_path, "ptb", path=str(tmp_path), lower=True, check_counts=True)
    with pytest.raises(UserError, match=r": 9 train .* of 929,589.* 5 types .* of 10,000.*check_counts"):
        open_corpus(config)
    assert not list(tmp_path.glob("cache/*/meta.json"))
    published = Published({"train": 9, "valid": 3, "test": 3}, 5)
    monkeypatch.setitem(CORPORA, "ptb", replace(CORPORA["ptb"], published=published))
    check(config)
    monkeypatch.undo()
    config.check_counts, config.cache = False, str(tmp_path / "other cache")
    check(config)


def test_files_of_the_same_name_in_two_folders_are_not_joined(tmp_path):
    for folder in ("wikitext-2", "wikitext-103"):
        (tmp_path / folder).mkdir()
        for split in ("train", "valid", "test"):
            (tmp_path / folder / f"wiki.{split}.tokens").write_text(" = A = \n")
    with pytest.raises(UserError, match=r"has wiki\.train\.tokens in .*wikitext-103 and in .*wikitext-2: use one"):
        open_corpus(config_of(tmp_path, "wikitext2", path=str(tmp_path)))

"""What is prepared needs no right but to read it: in a read-only cache, or in one that several users share."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tbptt.data.config import DataConfig
from tbptt.data.prepare import open_corpus
from tbptt.errors import UserError
from tests.data.archives import archive_of, check, config_of
from tests.data.small_corpora import corpus_config, decoded, words_of, write_corpus
from tests.helpers import user

OTHERS = "a c\n"


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that every user may enter, with a cache that every user may write to, as /tmp is."""
    if os.geteuid() != 0:
        pytest.skip("only root can act as several users")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        (Path(folder) / "cache").mkdir()
        (Path(folder) / "cache").chmod(0o1777)
        yield Path(folder)


@pytest.fixture
def corpus(place) -> DataConfig:
    return corpus_config(write_corpus(place / "text"), cache=str(place / "cache"))


def everything_in(folder: Path) -> dict[Path, tuple[int, int]]:
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.rglob("*")}


@pytest.mark.usefixtures("small_corpora")
@pytest.mark.parametrize("source", ["text", "archive", "mirror"])
def test_a_prepared_corpus_is_opened_without_writing(place, site, source):
    file, content = archive_of("ptb")
    site.files[file] = content
    (place / file).write_bytes(content)
    given = {"archive": {"path": str(place)}, "mirror": {"url": site.url}}
    config = config_of(place, "ptb", **given[source]) if source != "text" else corpus_config(
        write_corpus(place / "text"), cache=str(place / "cache")
    )  # fmt: skip
    with user(5001):
        open_corpus(config)
    cache = place / "cache"
    before = everything_in(cache)
    cache.chmod(0o755)
    for uid in (5001, 5002):  # neither may write to the folder any more
        with user(uid):
            if source == "text":
                assert decoded(open_corpus(config), "train") == words_of("a b a\n\nc a b\n")
            else:
                check(config)
    assert everything_in(cache) == before


def test_prepared_files_whose_download_was_deleted_are_opened(tmp_path, site, small_corpora):
    file, content = archive_of("ptb")
    site.files[file] = content
    config = config_of(tmp_path, "ptb", url=site.url)
    check(config)
    (tmp_path / "cache/sources").rename(tmp_path / "deleted")
    check(config)
    assert len(site.requests) == 1


def test_users_of_one_cache_prepare_what_the_others_have_not(place, corpus):
    with user(5001):
        open_corpus(corpus)
    others = corpus_config(write_corpus(place / "more", *[OTHERS] * 3), cache=corpus.cache)
    with user(5002):
        assert decoded(open_corpus(others), "train") == words_of(OTHERS)
    write_corpus(place / "text", *[OTHERS] * 3)  # the files of the first user are out of date now
    for _ in range(2):
        with user(5002):
            assert decoded(open_corpus(corpus), "train") == words_of(OTHERS)
    with user(5001):
        assert decoded(open_corpus(corpus), "train") == words_of(OTHERS)


def test_what_another_user_left_unfinished_or_keeps_to_themselves_is_no_obstacle(place, corpus):
    with user(5001):
        folder = open_corpus(corpus).folder
        folder.rename(folder.with_name(f"{folder.name}.building"))
    with user(5002):
        assert decoded(open_corpus(corpus), "train") == words_of("a b a\n\nc a b\n")
        folder.chmod(0o700)
    with user(5003):
        assert decoded(open_corpus(corpus), "train") == words_of("a b a\n\nc a b\n")


@pytest.mark.usefixtures("small_corpora")
def test_users_of_one_cache_download_what_the_others_have_not(place, site):
    for uid, name in ((5001, "ptb"), (5002, "enwik8"), (5003, "ptb")):
        file, content = archive_of(name)
        site.files[file] = content
        with user(uid):
            check(config_of(place, name, url=site.url))
    assert len(site.requests) == 2, "a download was repeated"


def test_a_private_cache_stays_private(place):
    with user(5001):
        home = place / "cache/home"
        home.mkdir(mode=0o755)
        open_corpus(corpus_config(write_corpus(place / "cache/home/text"), cache=str(home / "a/b")))
        assert (home / "a/b").stat().st_mode & 0o022 == 0


@pytest.mark.parametrize("cache", ["read-only", "a file", "below a file"])
def test_a_cache_that_cannot_be_written_is_told_of_in_one_sentence(place, corpus, cache):
    (place / "cache").chmod(0o755)
    (place / "file").touch()
    corpus.cache = str({"read-only": place / "cache", "a file": place / "file"}.get(cache, place / "file/below"))
    with user(5001), pytest.raises(UserError, match=r"data=text is not prepared in data\.cache=.* you can write to"):
        open_corpus(corpus)


@pytest.mark.parametrize("name", ["text", "text/train.txt", "list"])
def test_a_source_that_may_not_be_read_is_told_of_in_one_sentence(place, corpus, name):
    (place / "list").write_text("a\n")
    (place / name).chmod(0)
    corpus.vocabulary = str(place / "list") if name == "list" else None
    with user(5001), pytest.raises(UserError, match=rf"{name}.* may not be read .*Permission denied"):
        open_corpus(corpus)

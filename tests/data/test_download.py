"""A downloaded file is whole and as published, or it is not there; what a broken connection left is gone on with."""

import errno
import hashlib
import io
import random
from functools import partial
from pathlib import Path

import pytest

from tbptt.data import download as module
from tbptt.errors import UserError
from tests.data.server import Site, serving

CONTENT = random.Random(0).randbytes(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
download = partial(module.download, pause=0)


@pytest.fixture
def site(site) -> Site:
    site.files["file"] = CONTENT
    return site


@pytest.fixture
def target(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(module, "BLOCK", 10_000)
    return tmp_path / "folder" / "file"


def part_of(target: Path) -> Path:
    return target.with_name("file.part")


def refused(*args, **settings) -> str:
    """The sentence a download ends with."""
    with pytest.raises(UserError) as error:
        download(*args, **settings)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400
    return str(error.value)


def test_a_file_arrives_whole(site, target):
    download(f"{site.url}/file", target, len(CONTENT), SHA256)
    assert target.read_bytes() == CONTENT and site.requests == [("GET", "file", None)]
    assert not part_of(target).exists()


@pytest.mark.parametrize("cuts", [1, 3])
@pytest.mark.parametrize("cut_after", [1, 10_000, 77_777])
def test_a_download_that_was_cut_is_resumed_where_it_was(site, target, cuts, cut_after):
    site.cuts, site.cut_after = cuts, cut_after
    download(f"{site.url}/file", target, len(CONTENT), SHA256)
    assert target.read_bytes() == CONTENT
    whole_blocks = cut_after // 10_000 * 10_000
    starts = [int(wanted.removeprefix("bytes=").removesuffix("-")) for _, _, wanted in site.requests if wanted]
    assert starts == ([whole_blocks * (i + 1) for i in range(cuts)] if whole_blocks else [])
    assert len(site.requests) == cuts + 1


def test_a_server_without_ranges_sends_it_all_again(site, target):
    site.ranges, site.cuts, site.cut_after = False, 2, 77_777
    download(f"{site.url}/file", target, len(CONTENT), SHA256)
    assert target.read_bytes() == CONTENT and len(site.requests) == 3


def test_a_connection_that_always_breaks_is_given_up_and_gone_on_with_later(site, target):
    site.cuts, site.cut_after = 1000, 20_000
    said = refused(f"{site.url}/file", target, len(CONTENT), SHA256, tries=3)
    assert all(words in said for words in (f"{site.url}/file", "the connection broke", "60,000 bytes", "3 times")), said
    assert not target.exists() and part_of(target).read_bytes() == CONTENT[:60_000]
    site.cuts = 0
    download(f"{site.url}/file", target, len(CONTENT), SHA256)
    assert target.read_bytes() == CONTENT and site.requests[-1][2] == "bytes=60000-"


@pytest.mark.parametrize("left", [CONTENT, CONTENT + b"more"])
def test_what_was_left_whole_or_too_long_is_no_obstacle(site, target, left):
    target.parent.mkdir()
    part_of(target).write_bytes(left)
    download(f"{site.url}/file", target, len(CONTENT), SHA256)
    assert target.read_bytes() == CONTENT
    assert len(site.requests) == (1 if left == CONTENT else 2)


def test_a_part_of_another_file_is_found_out(site, target):
    target.parent.mkdir()
    part_of(target).write_bytes(b"something else")
    assert SHA256 in refused(f"{site.url}/file", target, len(CONTENT), SHA256)
    download(f"{site.url}/file", target, len(CONTENT), SHA256)
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize(
    "size, sha256, named",
    [(300_001, None, ["300,000 bytes", "300,001 bytes"]), (300_000, "0" * 64, [SHA256, "0" * 64])],
)
def test_other_content_than_published_is_refused_and_deleted(site, target, size, sha256, named):
    said = refused(f"{site.url}/file", target, size, sha256)
    assert all(word in said for word in [f"{site.url}/file", *named]), said
    assert list(target.parent.iterdir()) == []


def test_a_file_the_server_has_not_is_said_so(site, target):
    said = refused(f"{site.url}/other", target)
    assert f"{site.url}/other answers 404" in said and "data.url" in said and "data.path" in said
    assert list(target.parent.iterdir()) == [] and len(site.requests) == 1


def test_no_network_is_said_so(target):
    with serving() as gone:
        pass
    said = refused(f"{gone.url}/file", target)
    assert f"{gone.url}/file cannot be reached" in said and "data.url" in said and "data.path" in said
    assert list(target.parent.iterdir()) == []


def test_a_server_that_is_gone_half_way_leaves_the_part(target):
    with serving() as gone:
        pass
    target.parent.mkdir()
    part_of(target).write_bytes(CONTENT[:1000])
    assert "after 1,000 bytes, 2 times" in refused(f"{gone.url}/file", target, tries=2)
    assert part_of(target).read_bytes() == CONTENT[:1000] and not target.exists()


@pytest.mark.parametrize("url", ["ftp://host/file", "host/file", "http://", "file:///etc/passwd"])
def test_what_is_no_web_address_is_refused(target, url):
    assert f"data.url={url} is not a valid address" in refused(url, target)
    assert list(target.parent.iterdir()) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_said_so_and_made_no_fuller(site, target, monkeypatch, number):
    class Full(io.FileIO):
        def write(self, block: bytes) -> int:
            if self.tell() > 50_000:
                raise OSError(number, "No space left on device")
            return super().write(block)

    monkeypatch.setattr(module, "open", Full, raising=False)
    said = refused(f"{site.url}/file", target)
    assert f"the disk of {target.parent} is full" in said and "data.cache" in said
    assert list(target.parent.iterdir()) == [] and len(site.requests) == 1

"""An archive that is damaged, or names files outside, does no harm."""

import pytest

from tbptt.data.corpora import CORPORA
from tbptt.data.prepare import open_corpus
from tbptt.errors import UserError
from tests.data.archives import MEMBERS, archive_of, check, config_of, packed

pytestmark = pytest.mark.usefixtures("small_corpora")


@pytest.mark.parametrize("name", ["enwik8", "ptb"])
@pytest.mark.parametrize("prefix", ["../../", "/{}/", "a/../../../../"])
def test_no_member_is_written_outside_the_cache(tmp_path, name, prefix):
    (tmp_path / "data").mkdir()
    file = CORPORA[name].archive.name
    outside = prefix.format(tmp_path)
    (tmp_path / "data" / file).write_bytes(packed(file, {f"{outside}{m}": text for m, text in MEMBERS[name].items()}))
    before = {path for path in tmp_path.rglob("*")} | {tmp_path / "cache"}
    check(config_of(tmp_path, name, path=str(tmp_path / "data")))
    assert all((tmp_path / "cache") in path.parents for path in set(tmp_path.rglob("*")) - before)


@pytest.mark.parametrize("damage", ["truncated", "altered", "another", "empty"])
@pytest.mark.parametrize("name", ["enwik8", "ptb"])
def test_a_damaged_archive_is_reported_and_can_be_replaced(tmp_path, name, damage):
    file, content = archive_of(name)
    middle = content.index(b"enwik8") + 12 if name == "enwik8" else len(content) // 2
    damaged = {
        "truncated": content[: len(content) // 2],
        "altered": content[:middle] + b"\xff\xff\xff" + content[middle + 3 :],
        "another": packed(file, {"other": b"x"}),
        "empty": b"",
    }
    (tmp_path / file).write_bytes(damaged[damage])
    config = config_of(tmp_path, name, path=str(tmp_path))
    with pytest.raises(UserError, match=r"does not contain" if damage == "another" else f"{file} cannot be unpacked"):
        open_corpus(config)
    (tmp_path / file).write_bytes(content)
    check(config)

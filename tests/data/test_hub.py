"""WikiText from (a stand-in of) the Hugging Face hub is the original text, asked for once."""

import io
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from tbptt.data.config import DataConfig
from tbptt.data.corpora import CORPORA, SPLITS
from tbptt.data.prepare import open_corpus
from tbptt.errors import UserError
from tests.data.server import Site, serving
from tests.data.small_corpora import corpus_config, decoded, words_of

# A row is a line, the empty ones without their line end, as the dataset has them.
ROWS = {
    "train": ["", " = Title = \n", "", " a <unk> b \u00e9 \u2028 c \n", "", " b @-@ a \n"],
    "valid": ["", " b b \n"],
    "test": ["", " = = \n", ""],
}
HOME = "datasets/Salesforce/wikitext/resolve/main"
NAMES = ("wikitext2", "wikitext103")


def shards(name: str) -> dict[str, bytes]:
    """The parquet files of a dataset, by their address."""
    files = {}
    for split, addresses in CORPORA[name].hub.items():
        rows = ROWS[split]
        size = -(-len(rows) // len(addresses))
        for i, address in enumerate(addresses):
            file = io.BytesIO()
            part = rows[i * size : (i + 1) * size]
            parquet.write_table(pa.table({"text": pa.array(part, pa.string()), "other": range(len(part))}), file)
            files[f"{HOME}/{address}"] = file.getvalue()
    return files


@pytest.fixture
def hub(site) -> Site:
    for name in NAMES:
        site.files |= shards(name)
    return site


def config_of(folder: Path, name: str, url: str, **settings) -> DataConfig:
    return corpus_config(folder, name=name, path=None, url=url, **settings)


@pytest.mark.parametrize("name", NAMES)
def test_the_text_is_the_original(tmp_path, hub, name):
    config = config_of(tmp_path, name, hub.url)
    corpus = open_corpus(config)
    for split, rows in ROWS.items():
        original = "".join(row if row.endswith("\n") else row + "\n" for row in rows)
        text = tmp_path / "cache/sources" / name / "downloaded" / f"wiki.{split}.tokens"
        assert text.read_bytes() == original.encode()
        assert decoded(corpus, split) == words_of(original)
    assert all(hub.fetched(address) == 1 for address in shards(name))
    asked = len(hub.requests)
    config.min_count = 2  # other token files of the same source
    open_corpus(config)
    assert len(hub.requests) == asked


def test_other_counts_than_published_are_refused_unless_meant(tmp_path, hub):
    config = config_of(tmp_path, "wikitext2", hub.url, check_counts=True)
    with pytest.raises(UserError, match=r": 17 train tokens instead of 2,088,628.*data\.check_counts=false"):
        open_corpus(config)
    config.check_counts = False
    assert len(open_corpus(config).splits["train"]) == 17


def test_a_file_the_hub_has_not_is_said_so_and_leaves_nothing(tmp_path, hub):
    lacking = f"{HOME}/{CORPORA['wikitext2'].hub['test'][0]}"
    content = hub.files.pop(lacking)
    config = config_of(tmp_path, "wikitext2", hub.url)
    with pytest.raises(
        UserError, match=r"test-00000-of-00001\.parquet of Salesforce/wikitext cannot be downloaded"
    ) as error:
        open_corpus(config)
    assert "data.url" in str(error.value) and "data.path" in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "cache/sources/wikitext2/downloaded").exists()
    hub.files[lacking] = content
    assert set(open_corpus(config).splits) == set(SPLITS)
    train = f"{HOME}/{CORPORA['wikitext2'].hub['train'][0]}"
    assert hub.fetched(train) == 1, "what had come was fetched again"


def test_no_network_is_said_so(tmp_path, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the client's, between its tries
    with serving() as gone:
        pass
    with pytest.raises(
        UserError, match=r"Salesforce/wikitext cannot be downloaded from the hub .*data\.url.*data\.path"
    ):
        open_corpus(config_of(tmp_path, "wikitext2", gone.url))


def test_without_the_client_it_is_said_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[download\]'.*data\.path=FOLDER"):
        open_corpus(config_of(tmp_path, "wikitext2", "http://127.0.0.1:9"))

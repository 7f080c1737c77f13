"""What fairseq-preprocess wrote is read as it stands: the same ids in the same order, of every integer type."""

import json
import os
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tbptt.data.corpora import SPLITS
from tbptt.data.fairseq import read_dictionary, read_tokens
from tbptt.data.prepare import PreparedCorpus, open_corpus
from tbptt.errors import UserError
from tests.data.small_corpora import GOLDEN_FAIRSEQ, corpus_config
from tests.helpers import CONF

# The codes of fairseq 0.12.2 (fairseq/data/indexed_dataset.py).
CODES = {1: np.uint8, 2: np.int8, 3: np.int16, 4: np.int32, 5: np.int64, 8: np.uint16, 9: np.uint32, 10: np.uint64}


def write_split(prefix: Path, sentences: list[list[int]], code: int) -> None:
    """As MMapIndexedDatasetBuilder does."""
    dtype = np.dtype(CODES[code])
    sizes = np.array([len(sentence) for sentence in sentences], dtype=np.int32)
    starts = np.array([dtype.itemsize * sum(sizes[:i]) for i in range(len(sizes))], dtype=np.int64)
    header = b"MMIDIDX\x00\x00" + struct.pack("<Q", 1) + struct.pack("<B", code) + struct.pack("<Q", len(sizes))
    prefix.with_suffix(".idx").write_bytes(header + sizes.tobytes() + starts.tobytes())
    prefix.with_suffix(".bin").write_bytes(
        b"".join(np.array(s, dtype=np.int64).astype(dtype).tobytes() for s in sentences)
    )


@pytest.fixture
def folder(tmp_path) -> Path:
    return Path(shutil.copytree(GOLDEN_FAIRSEQ / "bin", tmp_path / "bin", copy_function=shutil.copyfile))


def opened(folder: Path) -> PreparedCorpus:
    return open_corpus(corpus_config(folder, name="fairseq", cache=str(folder.parent / "cache")))


def test_the_ids_are_those_that_the_dictionary_gives(folder):
    corpus = opened(folder)
    listed = [line.split(" ")[0] for line in (folder / "dict.txt").read_text().splitlines()]
    assert corpus.vocabulary.symbols == ["<s>", "<pad>", "</s>", "<unk>", *listed]
    number = {symbol: i for i, symbol in enumerate(corpus.vocabulary.symbols)}
    for split in SPLITS:
        lines = (GOLDEN_FAIRSEQ / "text" / f"{split}.txt").read_text().splitlines()
        words = [word for line in lines for word in [*line.split(), "</s>"]]
        assert corpus.splits[split].tolist() == [number.get(word, number["<unk>"]) for word in words]
    assert corpus.splits["train"].dtype == np.uint8


@pytest.mark.parametrize("code", CODES)
@given(st.lists(st.lists(st.integers(0, 127), max_size=5), max_size=6))
def test_every_integer_type_reads_back(tmp_path_factory, code, sentences):
    prefix = tmp_path_factory.mktemp("split") / "train"
    write_split(prefix, sentences, code)
    assert read_tokens(prefix).tolist() == [token for sentence in sentences for token in sentence]


@pytest.mark.parametrize("code", [code for code in CODES if code != 2])
def test_token_files_of_every_integer_type_are_the_same(folder, code):
    ids = {split: read_tokens(folder / split).tolist() for split in SPLITS}
    for split in SPLITS:
        write_split(folder / split, [ids[split][:7], [], ids[split][7:]], code)
    corpus = opened(folder)
    assert {split: corpus.splits[split].tolist() for split in SPLITS} == ids


def test_ids_below_zero_are_refused(folder):
    write_split(folder / "train", [[4, 139, 5]], code=2)  # too narrow for 139
    with pytest.raises(UserError, match=r"train\.bin contains token id -117, but the vocabulary has 144 entries"):
        opened(folder)


def test_an_empty_split_is_refused(folder):
    write_split(folder / "valid", [], code=8)
    with pytest.raises(UserError, match=r"valid\.bin has 0 tokens"):
        opened(folder)


DAMAGES = {"truncated": lambda content: content[:-1], "longer": lambda content: content + b"\0", "empty": lambda _: b""}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("end", ["idx", "bin"])
def test_a_damaged_split_is_reported_with_its_file(folder, end, damage):
    path = folder / f"valid.{end}"
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    with pytest.raises(UserError, match=rf"valid\.{end}"):
        opened(folder)


@pytest.mark.parametrize("place, byte", [(0, 0), (9, 2), (17, 6), (17, 99), (18, 255), (24, 255), (26, 9)])
def test_a_damaged_index_is_reported_with_its_name(folder, place, byte):
    content = bytearray((folder / "train.idx").read_bytes())
    content[place] = byte
    (folder / "train.idx").write_bytes(content)
    with pytest.raises(UserError, match=re.escape(str(folder / "train."))):
        opened(folder)


def test_sentences_in_another_order_are_refused(folder):
    content = (folder / "train.idx").read_bytes()
    (folder / "train.idx").write_bytes(content[:-16] + content[-8:] + content[-16:-8])
    with pytest.raises(UserError, match=r"train\.idx: the sentences do not follow"):
        opened(folder)


@pytest.mark.parametrize(
    "line, named",
    [("word", "line 3"), ("word many", "line 3"), ("", "line 3"), (" 5", "line 3"), ("\udcff 1", "UTF-8")],
)
def test_a_damaged_dictionary_is_reported_with_the_line(folder, line, named):
    lines = (folder / "dict.txt").read_text().split("\n")
    text = "\n".join([*lines[:2], line, *lines[3:]])
    (folder / "dict.txt").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(UserError, match=rf"dict\.txt.*{named}"):
        opened(folder)


def test_a_dictionary_of_another_corpus_is_refused(folder):
    (folder / "dict.txt").write_text("w0 88\nw1 51\n")
    with pytest.raises(UserError, match=r"train\.bin contains token id \d+, but the vocabulary has 6 entries"):
        opened(folder)


def test_any_symbol_without_a_line_end_is_read(tmp_path):
    symbols = ["a\u2028b", "\x85", "c d", "#fairseq:overwrite", "\x0b"]
    (tmp_path / "dict.txt").write_text(
        "".join(f"{s} 7\n" for s in symbols) + "<pad> 1 #fairseq:overwrite\n", newline=""
    )
    assert read_dictionary(tmp_path / "dict.txt").symbols[4:] == [*symbols, "<pad>"]


@pytest.mark.slow
def test_a_run_trains_on_it(tmp_path):
    words = ["experiment=debug", "data=fairseq", f"data.path={GOLDEN_FAIRSEQ}/bin", "data.batch_size=4"]
    environment = os.environ | {"TBPTT_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, str(CONF.parent / "run.py"), *words, f"hydra.run.dir={tmp_path}/run"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((tmp_path / "run/results.json").read_text())
    losses = [json.loads(line)["loss"] for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert results["train"]["steps"] == 20 and losses[-1] < losses[0] < np.log(1000)

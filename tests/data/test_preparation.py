"""A preparation that was killed goes on where it was; processes that want the same corpus at once prepare it once."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from filelock import FileLock

from tbptt.data import tokenize as module
from tbptt.data import writing
from tbptt.data.corpora import SPLITS
from tbptt.data.prepare import open_corpus
from tbptt.data.vocabulary import EOS
from tests.commands import wait_until
from tests.data.small_corpora import corpus_config, cut_into, decoded, files_of, words_of, write_corpus
from tests.helpers import CONF


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, OSError])
def test_an_interrupted_preparation_goes_on_from_its_parts(tmp_path, monkeypatch, interruption):
    monkeypatch.setattr(writing, "chunks", cut_into(1))
    text = "".join(f"{i % 7} {i}\n" for i in range(10))
    config = corpus_config(write_corpus(tmp_path, text, text, text))
    made = []

    def symbol_ids(text, *settings, whole=module.symbol_ids):
        if len(made) == 13 and interruption is not None:
            raise interruption
        made.append(text)
        return whole(text, *settings)

    monkeypatch.setattr(module, "symbol_ids", symbol_ids)
    with pytest.raises(interruption):
        open_corpus(config)
    interruption = None
    corpus = open_corpus(config)
    assert Counter(made) == dict.fromkeys(text.splitlines(keepends=True), 3)
    config.cache += " of another"
    assert files_of(open_corpus(config)) == files_of(corpus) and len(made) == 60
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.suffix in (".ids", ".building", ".new")]


SCRIPT = """
import logging, sys, time
from tbptt.data import tokenize, writing
from tbptt.data.config import DataConfig
from tbptt.data.prepare import open_corpus
from tbptt.data.sources import chunks
slow, whole = float(sys.argv[3]), tokenize.symbol_ids
writing.chunks = lambda sources, level: chunks(sources, level, 1)
tokenize.symbol_ids = lambda *settings: time.sleep(slow) or whole(*settings)
logging.basicConfig(level="INFO", stream=sys.stdout)
corpus = open_corpus(DataConfig("text", path=sys.argv[1], cache=sys.argv[2], workers=2))
print("prepared", corpus.identity())
"""


def start(folder: Path, slow: float) -> subprocess.Popen:
    """A process that opens the corpus of `folder`; every line of it takes `slow` seconds."""
    command = [sys.executable, "-c", SCRIPT, str(folder), str(folder / "cache"), str(slow)]
    environment = os.environ | {"PYTHONPATH": str(CONF.parent)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True)


def test_a_killed_preparation_goes_on_from_its_parts(tmp_path):
    text = "".join(f"{i % 7} {i}\n" for i in range(40))
    write_corpus(tmp_path, text, text, text)
    process = start(tmp_path, slow=0.05)
    while len(made := list(tmp_path.glob("cache/*.building/parts/train/*.json"))) < 5 and process.poll() is None:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    before = {path: path.stat().st_mtime_ns for path in made}
    again = []

    def vocabulary_ids(chunk, *settings, whole=writing._vocabulary_ids):
        again.append((chunk.description, chunk.description.stat().st_mtime_ns))
        return whole(chunk, *settings)

    config = corpus_config(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing, "chunks", cut_into(1))
        patch.setattr(writing, "_vocabulary_ids", vocabulary_ids)
        corpus = open_corpus(config)
    assert len(again) == 120 and before.items() <= set(again)
    assert {split: decoded(corpus, split) for split in SPLITS} == dict.fromkeys(SPLITS, words_of(text))
    config.cache += " of another"
    assert files_of(open_corpus(config)) == files_of(corpus)


def test_processes_that_start_together_prepare_once(tmp_path):
    text = "".join(f"{i % 7} {i} {EOS}\n" for i in range(40))
    write_corpus(tmp_path, text, text, text)
    processes = [start(tmp_path, slow=0.03) for _ in range(3)]
    printed = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert "".join(printed).count("Preparing") == 1
    assert len({text[text.index("prepared {") :] for text in printed}) == 1


def test_a_process_that_waits_for_another_says_so(tmp_path, caplog):
    config = corpus_config(write_corpus(tmp_path, "a b\n", "a b\n", "a b\n"))
    Path(config.cache).mkdir()
    with ThreadPoolExecutor(1) as waiting, caplog.at_level("INFO"):
        with FileLock(Path(config.cache, f"{config.name}.lock")):
            opened = waiting.submit(open_corpus, config)
            wait_until(lambda: "Waiting for another process" in caplog.text, seconds=20)
            assert not opened.done()
        assert len(opened.result().vocabulary)

"""Speed and memory of preparing a word-level corpus, on a text of Zipf's law that this script makes.

    python -m experiments.preparation --tokens 25_000_000
    python -m experiments.preparation --tokens 103_000_000 --types 267_734

The words are made of syllables, frequent ones short; lines have about 25 words, as in WikiText. Prints one JSON line:
tokens a second of preparation, peak memory of the process and its children, seconds to open the prepared corpus and cut
the first batch in a fresh process.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from itertools import count, islice, product
from pathlib import Path

import numpy as np

from tbptt.data.config import DataConfig, Level
from tbptt.data.prepare import open_corpus

SYLLABLES = [c + v for c in "bcdfghjklmnprstvwz" for v in ("a", "e", "i", "o", "u", "ai", "er", "on")]


def make_words(types: int) -> np.ndarray:
    """Distinct words, the shortest first."""
    words = ("".join(parts) for length in count(1) for parts in product(SYLLABLES, repeat=length))
    return np.array(list(islice(words, types)), dtype=object)


def make_text(file: Path, tokens: int, types: int, seed: int) -> None:
    """Write about `tokens` words and line ends, and every one of `types` words at least once."""
    words, random = make_words(types), np.random.default_rng(seed)
    weights = 1 / (np.arange(1, types + 1) + 2.7) ** 1.07
    cumulative = np.cumsum(weights / weights.sum())
    with open(file, "w", encoding="utf-8") as text:
        left, first = tokens, True
        while left > 0:
            n = min(left, 1_000_000) * 25 // 26
            ids = np.searchsorted(cumulative, random.random(n)).clip(max=types - 1)
            if first:
                ids[: min(n, types)] = random.permutation(types)[: min(n, types)]
            lines = np.split(words[ids], range(25, n, 25))
            text.write("".join(" ".join(line) + "\n" for line in lines))
            left, first = left - n * 26 // 25 - 1, False


def open_in_a_fresh_process(config: DataConfig) -> float:
    """Seconds from imported modules to the first batch."""
    code = (
        "import time; from tbptt.data.config import DataConfig; from tbptt.data.lanes import Lanes\n"
        "from tbptt.data.prepare import open_corpus; started = time.perf_counter()\n"
        f"corpus = open_corpus(DataConfig('text', path={config.path!r}, cache={config.cache!r}))\n"
        "Lanes.cut(corpus.splits['train'], 60, 150).segment(0); print(time.perf_counter() - started)"
    )
    return float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, encoding="utf-8").stdout)


class PeakMemory(threading.Thread):
    """The largest memory of this process and its children together, shared pages counted once (Linux's PSS), in MiB."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak, self.over = 0.0, threading.Event()

    def run(self) -> None:
        me = os.getpid()
        while not self.over.wait(0.1):
            children = Path(f"/proc/{me}/task/{me}/children").read_text(encoding="utf-8").split()
            self.peak = max(self.peak, sum(map(self.proportional_set, [str(me), *children])))

    @staticmethod
    def proportional_set(pid: str) -> float:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines()
        except OSError:  # it has ended meanwhile
            return 0.0
        return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("Pss:")), 0.0)


def measure(tokens: int, types: int, workers: int) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        for number, (split, share) in enumerate((("train", 1.0), ("valid", 0.002), ("test", 0.002))):
            make_text(Path(folder, f"{split}.txt"), int(tokens * share), types if split == "train" else 1000, number)
        config = DataConfig("text", path=folder, cache=f"{folder}/cache", level=Level.word, workers=workers)
        memory, started = PeakMemory(), time.perf_counter()
        memory.start()
        corpus = open_corpus(config)
        seconds = time.perf_counter() - started
        memory.over.set()
        total = sum(len(split) for split in corpus.splits.values())
        megabytes = sum(counts["source_bytes"] for counts in corpus.meta["splits"].values()) / 1e6
        return {
            "tokens": total,
            "megabytes": round(megabytes),
            "types": len(corpus.vocabulary),
            "workers": config.processes(),
            "seconds": round(seconds, 2),
            "tokens_per_second": round(total / seconds),
            "peak_MiB": round(memory.peak),
            "seconds_to_first_batch": round(open_in_a_fresh_process(config), 3),
        }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=25_000_000)
    parser.add_argument("--types", type=int, default=250_000)
    parser.add_argument("--workers", type=int, default=0)
    arguments = parser.parse_args()
    print(json.dumps(measure(arguments.tokens, arguments.types, arguments.workers)))

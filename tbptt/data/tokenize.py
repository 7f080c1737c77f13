"""Text -> token ids, chunk by chunk in several processes; the result does not depend on how many.

Each chunk is read once: its symbols get ids of its own in the order they are met, and only when the vocabulary of the
whole is known are those replaced. A chunk's ids are kept in a file, so that a preparation that was killed goes on.
"""

from __future__ import annotations

import json
import multiprocessing
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tqdm import tqdm

from tbptt.data.config import Level
from tbptt.data.sources import Source
from tbptt.data.vocabulary import EOS
from tbptt.errors import UserError


@dataclass(frozen=True)
class Part:
    """A chunk in ids of its own, kept in two files: the ids (uint32), and what they stand for (JSON)."""

    file: Path

    @property
    def description(self) -> Path:
        return self.file.with_suffix(".json")

    def ids(self) -> np.ndarray:
        return np.fromfile(self.file, dtype=np.uint32)

    def symbols(self) -> tuple[list[str], list[int]]:
        """The symbol that each id stands for, in the order they are met, and how often it is met."""
        described = json.loads(self.description.read_text(encoding="utf-8"))
        return described["symbols"], described["counts"]


def read_text(source: Source) -> str:
    """UserError if it is not UTF-8."""
    try:
        return source.read().decode("utf-8")
    except UnicodeDecodeError as error:
        where = source.start + error.start
        raise UserError(
            f"{source.path} is not UTF-8 text ({error.reason} at byte {where}): convert it, or use data.level=byte"
        ) from error


def symbol_ids(text: str, level: Level, line_end: str, line_start: str, lower: bool) -> tuple[list[str], np.ndarray]:
    """The symbols of a text in the order they are met, and the text in their numbers (uint32).

    Symbols are characters, or words between white space, with `line_end` after every line and `line_start` before it.
    """
    text = text.lower() if lower else text
    if level is Level.char:
        met = pa.array(np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)).dictionary_encode()
        return [chr(code) for code in met.dictionary.to_pylist()], met.indices.to_numpy().astype(np.uint32)
    if not text:
        return [], np.zeros(0, dtype=np.uint32)
    lines = text.removesuffix("\n").replace("\n", f" {line_end} {line_start} ")
    marked = f"{line_start} {lines} {line_end}".strip()
    met = pc.utf8_split_whitespace(pa.array([marked], pa.large_string())).flatten().dictionary_encode()
    return met.dictionary.to_pylist(), met.indices.to_numpy().astype(np.uint32)


def tokenize_chunk(
    job: tuple[Source, Part], level: Level, line_end: str = EOS, line_start: str = "", lower: bool = False
) -> Part:
    """Make the part of a chunk, unless its files are there."""
    pa.set_cpu_count(1)  # the processes share the cores
    source, part = job
    if part.description.exists():
        return part
    symbols, ids = symbol_ids(read_text(source), level, line_end, line_start, lower)
    ids.tofile(part.file)
    described = {"symbols": symbols, "counts": np.bincount(ids, minlength=len(symbols)).tolist()}
    new = part.file.with_suffix(".new")
    new.write_text(json.dumps(described, ensure_ascii=False), encoding="utf-8")
    os.replace(new, part.description)  # last: what is described is whole
    return part


def tokenize(sources: list[Source], folder: Path, processes: int, what: str, **settings) -> Iterator[Part]:
    """The parts of all chunks, in order, kept in `folder`."""
    jobs = [(source, Part(folder / f"{number:06d}.ids")) for number, source in enumerate(sources)]
    bar = partial(tqdm, desc=what, unit="chunk", total=len(jobs), disable=None)
    if processes == 1 or len(jobs) <= 1:
        yield from bar(tokenize_chunk(job, **settings) for job in jobs)
        return
    # Forked before any thread of torch is at work; a child touches nothing but text and numpy.
    with ProcessPoolExecutor(min(processes, len(jobs)), multiprocessing.get_context("fork")) as pool:
        yield from bar(pool.map(partial(tokenize_chunk, **settings), jobs))


def count_symbols(parts: Iterable[Part]) -> Counter[str]:
    """How often each symbol occurs; symbols in the order they are first met."""
    total: Counter[str] = Counter()
    for part in parts:
        for symbol, count in zip(*part.symbols()):
            total[symbol] += count
    return total


def count_words(sources: Iterable[Source]) -> int:
    """How many tokens the chunks of a text have at level word: its words, and an end of line for each line."""
    return sum(len(symbol_ids(read_text(source), Level.word, EOS, "", lower=False)[1]) for source in sources)

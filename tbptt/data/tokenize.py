"""Tokenization of text in chunks by several processes; the result does not depend on their number.

Each chunk is read once. Its symbols get local ids in order of first occurrence, which are replaced by token ids once
the vocabulary is known. The local ids are saved to a file, so that an interrupted preparation can be resumed.
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

from tbptt.data import reading
from tbptt.data.config import Level
from tbptt.data.sources import Source
from tbptt.data.vocabulary import EOS


@dataclass(frozen=True)
class TokenizedChunk:
    """A tokenized chunk in two files: its local ids (uint32), and the symbols of these ids (JSON)."""

    file: Path

    @property
    def description(self) -> Path:
        return self.file.with_suffix(".json")

    def ids(self) -> np.ndarray:
        return np.fromfile(self.file, dtype=np.uint32)

    def symbols(self) -> tuple[list[str], list[int]]:
        """The symbol of each local id, and how often it occurs in the chunk."""
        described = json.loads(self.description.read_text(encoding="utf-8"))
        return described["symbols"], described["counts"]


def read_text(source: Source) -> str:
    """The text of a source. UserError if it is not UTF-8."""
    return reading.decode(source.read(), source.path, source.start, "convert it, or use data.level=byte")


def symbol_ids(text: str, level: Level, line_end: str, line_start: str, lower: bool) -> tuple[list[str], np.ndarray]:
    """The distinct symbols of a text in order of first occurrence, and the text as indices of them (n,) uint32.

    Symbols are characters, or words separated by white space with `line_start` before and `line_end` after every line.
    """
    return document_symbols(pa.array([text], pa.large_string()), level, line_end, line_start, lower)[:2]


def document_symbols(
    texts: pa.Array, level: Level, line_end: str, line_start: str, lower: bool
) -> tuple[list[str], np.ndarray, np.ndarray]:
    """As `symbol_ids`, of N texts (large_string) one after the other; and how many symbols each of them has (N,)."""
    if lower:  # as Python does it, which knows final letters
        texts = pa.array([text.lower() for text in texts.to_pylist()], pa.large_string())
    if level is Level.char:
        codes = np.frombuffer("".join(texts.to_pylist()).encode("utf-32-le"), dtype=np.uint32)
        encoded = pa.array(codes).dictionary_encode()
        symbols = [chr(code) for code in encoded.dictionary.to_pylist()]
        return symbols, encoded.indices.to_numpy().astype(np.uint32), pc.utf8_length(texts).to_numpy()
    ended = pc.if_else(pc.ends_with(texts, "\n"), pc.utf8_slice_codeunits(texts, 0, -1), texts)
    lines = pc.replace_substring(ended, "\n", f" {line_end} {line_start} ")
    head, tail, nothing = (pa.scalar(text, pa.large_string()) for text in (f"{line_start} ", f" {line_end}", ""))
    marked = pc.binary_join_element_wise(head, lines, tail, nothing)
    marked = pc.utf8_trim_whitespace(pc.if_else(pc.equal(texts, ""), nothing, marked))
    words = pc.utf8_split_whitespace(marked)
    lengths = np.where(pc.equal(marked, "").to_numpy(zero_copy_only=False), 0, pc.list_value_length(words).to_numpy())
    flat = words.flatten()  # with one empty word for an empty text
    encoded = (flat.filter(pc.not_equal(flat, "")) if not lengths.all() else flat).dictionary_encode()
    return encoded.dictionary.to_pylist(), encoded.indices.to_numpy().astype(np.uint32), lengths


def tokenize_chunk(
    job: tuple[Source, TokenizedChunk], level: Level, line_end: str = EOS, line_start: str = "", lower: bool = False
) -> TokenizedChunk:
    """Tokenize a chunk, unless its files exist already."""
    pa.set_cpu_count(1)  # the processes use one core each
    source, chunk = job
    if chunk.description.exists():
        return chunk
    symbols, ids = symbol_ids(read_text(source), level, line_end, line_start, lower)
    chunk.file.write_bytes(ids.tobytes())  # `tofile` does not tell why it fails
    described = {"symbols": symbols, "counts": np.bincount(ids, minlength=len(symbols)).tolist()}
    temporary = chunk.file.with_suffix(".new")
    temporary.write_text(json.dumps(described, ensure_ascii=False), encoding="utf-8")
    os.replace(temporary, chunk.description)  # written last: marks the chunk as complete
    return chunk


def tokenize(sources: list[Source], folder: Path, processes: int, label: str, **settings) -> Iterator[TokenizedChunk]:
    """Tokenize all chunks into `folder`, in order; `label` is shown on the progress bar."""
    jobs = [(source, TokenizedChunk(folder / f"{number:06d}.ids")) for number, source in enumerate(sources)]
    bar = partial(tqdm, desc=label, unit="chunk", total=len(jobs), disable=None)
    if processes == 1 or len(jobs) <= 1:
        yield from bar(tokenize_chunk(job, **settings) for job in jobs)
        return
    # Forking is safe here: torch has started no threads yet, and the children use no torch.
    with ProcessPoolExecutor(min(processes, len(jobs)), multiprocessing.get_context("fork")) as pool:
        yield from bar(pool.map(partial(tokenize_chunk, **settings), jobs))


def count_symbols(chunks: Iterable[TokenizedChunk]) -> Counter[str]:
    """How often each symbol occurs, in order of first occurrence."""
    total: Counter[str] = Counter()
    for chunk in chunks:
        for symbol, count in zip(*chunk.symbols()):
            total[symbol] += count
    return total


def count_words(sources: Iterable[Source]) -> int:
    """The number of tokens of a text at level word: its words, and one end-of-line symbol per line."""
    return sum(len(symbol_ids(read_text(source), Level.word, EOS, "", lower=False)[1]) for source in sources)

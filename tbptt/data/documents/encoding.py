"""Documents to token ids: chunks are encoded by several processes, which write parts that the streams are made of.

A part has the ids of its documents without start tokens, and where documents begin. At levels word and char the ids
are local ones, in order of first occurrence, until the vocabulary is known.
"""

from __future__ import annotations

import json
import multiprocessing
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tqdm import tqdm

from tbptt.data import subwords
from tbptt.data.config import Level
from tbptt.data.corpus import SPLITS
from tbptt.data.documents.pieces import Chunk, Pieces
from tbptt.data.tokenize import TokenizedChunk, document_symbols
from tbptt.data.vocabulary import EOS


@dataclass(frozen=True)
class Encoder:
    """How texts become ids."""

    level: Level
    lower: bool = False
    line_end: str = EOS
    line_start: str = ""
    tokenizer: Any = None  # at level bpe

    def encode(self, texts: pa.Array) -> tuple[list[str] | None, np.ndarray, np.ndarray]:
        """The symbols of local ids (None: they are not local), the ids of N texts, and how many each text has (N,)."""
        if self.level is Level.byte:
            joined = b"".join(texts.cast(pa.large_binary()).to_pylist())
            return None, np.frombuffer(joined, dtype=np.uint8), pc.binary_length(texts).to_numpy()
        if self.level is Level.bpe:
            return None, *subwords.encode_texts(self.tokenizer, texts.to_pylist())
        return document_symbols(texts, self.level, self.line_end, self.line_start, self.lower)


class Part(TokenizedChunk):
    """The encoded documents of a chunk that are in one split, in two files."""

    def described(self) -> dict[str, Any]:
        return json.loads(self.description.read_text(encoding="utf-8"))

    def write(self, pieces: Pieces, encoder: Encoder) -> None:
        symbols, ids, lengths = encoder.encode(pieces.texts)
        described = {
            "starts": (np.cumsum(lengths) - lengths)[pieces.begins].tolist(),
            "bytes": pc.sum(pc.binary_length(pieces.texts)).as_py() or 0,
            "dtype": ids.dtype.str,
        }
        if symbols is not None:
            described |= {"symbols": symbols, "counts": np.bincount(ids, minlength=len(symbols)).tolist()}
        if encoder.level is Level.bpe:
            described["words"] = int(document_symbols(pieces.texts, Level.word, EOS, "", False)[2].sum())
        self.file.write_bytes(ids.tobytes())  # `tofile` does not tell why it fails
        temporary = self.file.with_suffix(".new")
        temporary.write_text(json.dumps(described, ensure_ascii=False), encoding="utf-8")
        os.replace(temporary, self.description)  # written last: marks the part as complete


@dataclass(frozen=True)
class HeldOut:
    """Splits that are a share of the documents of train, by their numbers: evenly spread, and never the same ones."""

    splits: tuple[str, ...] = ()
    share: float = 0.0

    def masks(self, numbers: np.ndarray) -> dict[str, np.ndarray]:
        """Which of the documents with these numbers (N,) are in each of the splits."""
        shifts = {split: {"valid": 0.0, "test": 0.5}[split] for split in self.splits}
        steps = {s: np.floor([x * self.share + shift for x in (numbers, numbers + 1)]) for s, shift in shifts.items()}
        return {split: before < after for split, (before, after) in steps.items()}


@dataclass(frozen=True)
class Job:
    """One chunk of a split, by its number."""

    split: str
    number: int
    chunk: Chunk


@dataclass(frozen=True)
class Work:
    """What a process does with every chunk."""

    encoder: Encoder
    held_out: HeldOut  # of train
    folder: Path  # of the parts, in a folder for each split

    def part(self, split: str, number: int) -> Part:
        return Part(self.folder / split / f"{number:06d}.ids")

    def is_done(self, job: Job) -> bool:
        return self.part(job.split, job.number).description.exists()

    def do(self, job: Job) -> None:
        pa.set_cpu_count(1)  # the processes use one core each
        pieces = job.chunk.pieces()
        masks = self.held_out.masks(pieces.numbers) if job.split == "train" else {}
        for split, mask in masks.items():
            self.part(split, job.number).write(pieces.filter(mask), self.encoder)
        rest = ~np.logical_or.reduce([*masks.values(), np.zeros(len(pieces.numbers), dtype=bool)])
        self.part(job.split, job.number).write(pieces.filter(rest), self.encoder)  # last: marks the chunk as done


def encode_chunks(jobs: Iterable[Job], work: Work, processes: int, total: int) -> dict[str, list[Part]]:
    """Encode all chunks, of about `total` bytes. Returns the parts of each split in order.

    UserError for a document that is no text.
    """
    for split in SPLITS:
        (work.folder / split).mkdir(parents=True, exist_ok=True)
    parts: dict[str, list[Part]] = {split: [] for split in SPLITS}
    with tqdm(desc="documents", total=total, unit="B", unit_scale=True, disable=None) as bar:
        for job in _done(jobs, work, processes):
            bar.update(job.chunk.size)
            for split in (job.split, *(work.held_out.splits if job.split == "train" else ())):
                parts[split].append(work.part(split, job.number))
    return parts


def _done(jobs: Iterable[Job], work: Work, processes: int) -> Iterator[Job]:
    """The jobs in order, each when it is done. Few are read ahead, since a chunk may hold its text."""
    if processes == 1:
        for job in jobs:
            if not work.is_done(job):
                work.do(job)
            yield job
        return
    waiting: deque[tuple[Job, Future | None]] = deque()
    # Forking is safe here: torch has started no threads yet, and the children use no torch.
    context = multiprocessing.get_context("fork")
    with _without_threads(), ProcessPoolExecutor(processes, context, _begin, (work,)) as pool:
        for job in jobs:
            waiting.append((job, None if work.is_done(job) else pool.submit(_do, job)))
            if len(waiting) > processes + 1:
                yield _finished(*waiting.popleft())
        while waiting:
            yield _finished(*waiting.popleft())


def _finished(job: Job, future: Future | None) -> Job:
    if future is not None:
        future.result()
    return job


_of_this_process: list[Work] = []  # sent once: a tokenizer is large


def _begin(work: Work) -> None:
    _of_this_process[:] = [work]


def _do(job: Job) -> None:
    _of_this_process[0].do(job)


@contextmanager
def _without_threads() -> Iterator[None]:
    """Tokenizers of processes that are started here use no threads: a fork does not have those of this process."""
    key = "TOKENIZERS_PARALLELISM"
    before = os.environ.get(key)
    os.environ[key] = "false"
    try:
        yield
    finally:
        del os.environ[key]
        os.environ |= {} if before is None else {key: before}

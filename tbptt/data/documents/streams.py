"""Writing of the token files of documents: `[start] document [start] document ...`, and where the starts are."""

from __future__ import annotations

import hashlib
import logging
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tbptt.data import subwords
from tbptt.data.config import DataConfig, Level
from tbptt.data.corpus import SPLITS, Corpus
from tbptt.data.documents.config import DocumentsConfig
from tbptt.data.documents.corpora import document_chunks
from tbptt.data.documents.encoding import Encoder, HeldOut, Job, Part, Work, encode_chunks
from tbptt.data.documents.pieces import Pieces
from tbptt.data.sources import Source, Sources
from tbptt.data.tokenize import count_symbols
from tbptt.data.vocabulary import EOS, Vocabulary, build_vocabulary, byte_vocabulary, check_unknown, given_vocabulary
from tbptt.errors import UserError

log = logging.getLogger(__name__)
Counts = dict[str, dict[str, Any]]  # split -> tokens, unknown, source_bytes, sha256, ...
TOKENIZER_BYTES = 1 << 30  # of files from which a tokenizer is trained: its memory grows with them


def write_documents(corpus: Corpus, config: DataConfig, found: Sources, folder: Path) -> tuple[Vocabulary, Counts]:
    """Write train.bin, train.starts, ... Returns the vocabulary, and counts and SHA-256 per split."""
    missing = tuple(split for split in SPLITS if not found[split])
    held_out = HeldOut(missing, config.held_out) if isinstance(config, DocumentsConfig) else HeldOut()
    _describe(config, found, missing)
    given = None if config.level is Level.bpe else given_vocabulary(config)
    line_start, line_end = line_marks(corpus, given)
    encoder = Encoder(config.level, config.lower, line_end, line_start)
    vocabulary: Vocabulary | None = None
    if config.level is Level.bpe:
        tokenizer, vocabulary = _tokenizer(corpus, config, found["train"], held_out, folder)
        encoder = Encoder(config.level, tokenizer=tokenizer)
    total = sum(source.size() for sources in found.values() for source in sources)
    work = Work(encoder, held_out, folder / "parts")
    parts = encode_chunks(_jobs(corpus, config, found), work, config.processes(), total)
    if config.level is Level.byte:
        vocabulary = byte_vocabulary().with_start()
    elif vocabulary is None:
        first = line_end if config.level is Level.word else ""
        vocabulary = (given or build_vocabulary(count_symbols(parts["train"]), config, first)).with_start()
    return vocabulary, {split: _write(folder, split, parts[split], vocabulary, config) for split in SPLITS}


def _describe(config: DataConfig, found: Sources, missing: tuple[str, ...]) -> None:
    """Log where splits without files come from, and warn of settings that have no effect."""
    if not isinstance(config, DocumentsConfig):
        return
    if missing:
        log.info("%s: data.held_out=%s of the documents of train each", " and ".join(missing), config.held_out)
    elif config.held_out != DocumentsConfig.held_out:
        log.warning("data.held_out=%s has no effect: every split has files", config.held_out)
    only_texts = all(source.path.suffix == ".txt" for sources in found.values() for source in sources)
    if only_texts and config.text_key != DocumentsConfig.text_key:
        log.warning("data.text_key=%s has no effect: every file is one document", config.text_key)


def _jobs(corpus: Corpus, config: DataConfig, found: Sources) -> Iterator[Job]:
    for split in SPLITS:
        for number, chunk in enumerate(document_chunks(corpus, config, found[split])):
            yield Job(split, number, chunk)


def line_marks(corpus: Corpus, given: Vocabulary | None) -> tuple[str, str]:
    """The symbols before and after every line at level word: the corpus's, or those of a given vocabulary."""
    if given and corpus.line_end == EOS not in given.ids:  # it has other line symbols
        return given.line_marks
    return corpus.line_start, corpus.line_end


def _tokenizer(
    corpus: Corpus, config: DataConfig, train: list[Source], held_out: HeldOut, folder: Path
) -> tuple[Any, Vocabulary]:
    """The given tokenizer, or one trained on train, with its start token; saved in `folder`."""
    path = folder / subwords.FILE
    if path.is_file():  # of a preparation that was interrupted
        tokenizer = subwords.load_tokenizer(folder)
    else:
        step = -(-sum(source.size() for source in train) // TOKENIZER_BYTES)
        if config.vocabulary is None and step > 1:
            log.info("The tokenizer is trained on one document in %s", step)
        chosen = (_chosen(chunk.pieces(), held_out, step) for chunk in document_chunks(corpus, config, train))
        tokenizer = subwords.make_tokenizer(config, chosen)
        subwords.with_start(tokenizer)
        tokenizer.save(str(new := path.with_suffix(".new")))
        os.replace(new, path)
    vocabulary = subwords.tokenizer_vocabulary(tokenizer, subwords.with_start(tokenizer))
    return tokenizer, vocabulary


def _chosen(pieces: Pieces, held_out: HeldOut, step: int) -> list[str]:
    """The texts that train a tokenizer: one document in `step`, and none that is held out."""
    kept = pieces.numbers % max(1, step) == 0
    for mask in held_out.masks(pieces.numbers).values():
        kept &= ~mask
    return pieces.filter(kept).texts.to_pylist()


def _vocabulary_ids(part: Part, described: dict[str, Any], vocabulary: Vocabulary, unknown: Counter[str]) -> np.ndarray:
    """The ids of a part; symbols that the vocabulary lacks are counted and become `<unk>`."""
    ids = np.fromfile(part.file, dtype=described["dtype"])
    if "symbols" not in described:
        return ids.astype(vocabulary.dtype)
    known = vocabulary.lookup(described["symbols"])
    for i in np.flatnonzero(known < 0):
        unknown[described["symbols"][i]] += described["counts"][i]
    known[known < 0] = vocabulary.unknown or 0
    return known.astype(vocabulary.dtype)[ids]


def _write(folder: Path, split: str, parts: list[Part], vocabulary: Vocabulary, config: DataConfig) -> dict[str, Any]:
    """Write the stream of a split and its starts. Returns counts and SHA-256."""
    start = vocabulary.start
    assert start is not None
    unknown: Counter[str] = Counter()
    totals: Counter[str] = Counter()
    digests = {"sha256": hashlib.sha256(), "starts_sha256": hashlib.sha256()}
    with open(folder / f"{split}.bin", "wb") as stream, open(folder / f"{split}.starts", "wb") as starts:
        for part in parts:
            described = part.described()
            ids = _vocabulary_ids(part, described, vocabulary, unknown)
            begins = np.array(described["starts"], dtype=np.int64)  # without start tokens
            tokens = np.insert(ids, begins, start).tobytes()
            indices = (totals["tokens"] + begins + np.arange(len(begins))).astype("<i8").tobytes()
            stream.write(tokens)
            starts.write(indices)
            digests["sha256"].update(tokens)
            digests["starts_sha256"].update(indices)
            totals += Counter(tokens=len(ids) + len(begins), documents=len(begins), source_bytes=described["bytes"])
            totals["words"] += described.get("words", 0)
    if not totals["documents"] and split == "train":
        raise UserError(f"data={config.name} has no documents in train: its files are empty, or all of it is held out")
    if not totals["documents"] and isinstance(config, DocumentsConfig):
        raise UserError(
            f"data={config.name} has no documents in {split}, neither in files nor as data.held_out={config.held_out} "
            "of train: give it files, or hold out more, such as data.held_out=0.05"
        )
    if totals["tokens"] < 2:
        raise UserError(f"{split} has {totals['tokens']} tokens, but needs at least 2: one input and one target")
    check_unknown(unknown, vocabulary, split, config)
    keys = ("tokens", "documents", "source_bytes", *(("words",) if config.level is Level.bpe else ()))
    counts: dict[str, Any] = {key: totals[key] for key in keys} | {"unknown": unknown.total()}
    return counts | {key: digest.hexdigest() for key, digest in digests.items()}

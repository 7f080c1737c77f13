"""Writing of the token files of all splits, at every level."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from tbptt.data import fairseq, subwords
from tbptt.data.config import DataConfig, Level
from tbptt.data.corpus import SPLITS, Corpus
from tbptt.data.documents.streams import Counts, line_marks, write_documents
from tbptt.data.sources import Sources, chunks
from tbptt.data.tokenize import TokenizedChunk, count_symbols, count_words, tokenize
from tbptt.data.vocabulary import (
    Vocabulary,
    build_vocabulary,
    byte_vocabulary,
    check_unknown,
    given_vocabulary,
)
from tbptt.errors import UserError


def write_splits(corpus: Corpus, config: DataConfig, found: Sources, folder: Path) -> tuple[Vocabulary, Counts]:
    """Write train.bin, valid.bin and test.bin. Returns the vocabulary, and counts and SHA-256 per split."""
    if config.documents:
        return write_documents(corpus, config, found, folder)
    # Lower-casing depends on neighbouring characters (final "Σ"): chunks must be whole lines, also at level char.
    unit = Level.word if config.level is Level.char and config.lower else config.level
    chunked = {split: chunks(sources, unit) for split, sources in found.items()}
    if config.name == "fairseq":
        vocabulary = fairseq.read_dictionary(found["train"][0].path.with_name("dict.txt"))
        arrays: dict[str, Iterable[np.ndarray]] = {s: [fairseq.read_tokens(found[s][0].path)] for s in SPLITS}
    elif config.level is Level.byte:
        vocabulary = byte_vocabulary()
        arrays = {split: (np.frombuffer(chunk.read(), dtype=np.uint8) for chunk in chunked[split]) for split in SPLITS}
    elif config.level is Level.bpe:
        tokenizer = subwords.make_tokenizer(config, subwords.training_lines(chunked["train"]))
        tokenizer.save(str(folder / subwords.FILE))
        vocabulary = subwords.tokenizer_vocabulary(tokenizer)
        arrays = {split: subwords.encode(tokenizer, chunked[split]) for split in SPLITS}
    else:
        return _write_symbols(corpus, config, found, chunked, folder)
    counts = {split: _write(folder, split, arrays[split], vocabulary, found) for split in SPLITS}
    if config.level is Level.bpe:
        counts = {split: counts[split] | {"words": count_words(chunked[split])} for split in SPLITS}
    return vocabulary, counts


def _write_symbols(
    corpus: Corpus, config: DataConfig, found: Sources, chunked: Sources, folder: Path
) -> tuple[Vocabulary, Counts]:
    """Write the splits at level word or char: chunks are tokenized in parallel, then mapped to vocabulary ids."""
    given = given_vocabulary(config)
    line_start, line_end = line_marks(corpus, given)
    settings = {"level": config.level, "lower": config.lower, "line_start": line_start, "line_end": line_end}
    tokenized: dict[str, list[TokenizedChunk]] = {}
    for split in SPLITS:
        parts = folder / "parts" / split
        parts.mkdir(parents=True, exist_ok=True)
        tokenized[split] = list(tokenize(chunked[split], parts, config.processes(), split, **settings))
    first = corpus.line_end if config.level is Level.word else ""
    vocabulary = given or build_vocabulary(count_symbols(tokenized["train"]), config, first)
    if not len(vocabulary):
        raise UserError(
            f"{found['train'][0].path if found['train'] else 'train'} is empty: no vocabulary can be built from it"
        )
    counts = {}
    for split in SPLITS:
        unknown: Counter[str] = Counter()
        arrays = (_vocabulary_ids(chunk, vocabulary, unknown) for chunk in tokenized[split])
        counts[split] = _write(folder, split, arrays, vocabulary, found) | {"unknown": unknown.total()}
        check_unknown(unknown, vocabulary, split, config)
    return vocabulary, counts


def _vocabulary_ids(chunk: TokenizedChunk, vocabulary: Vocabulary, unknown: Counter[str]) -> np.ndarray:
    """Map local ids to vocabulary ids; symbols that the vocabulary lacks are counted and become `<unk>`."""
    symbols, counts = chunk.symbols()
    ids = vocabulary.lookup(symbols)
    for i in np.flatnonzero(ids < 0):
        unknown[symbols[i]] += counts[i]
    ids[ids < 0] = vocabulary.unknown or 0
    return ids.astype(vocabulary.dtype)[chunk.ids()]


def _write(
    folder: Path, split: str, arrays: Iterable[np.ndarray], vocabulary: Vocabulary, found: Sources
) -> dict[str, Any]:
    """Write one token file. Returns its counts and SHA-256."""
    tokens, digest = 0, hashlib.sha256()
    with open(folder / f"{split}.bin", "wb") as file:
        for ids in arrays:
            invalid = [i for i in (ids.min(), ids.max()) if not 0 <= i < len(vocabulary)] if len(ids) else []
            if invalid:
                raise UserError(
                    f"{found[split][0].path} contains token id {invalid[0]}, "
                    f"but the vocabulary has {len(vocabulary)} entries"
                )
            block = ids.astype(vocabulary.dtype).tobytes()
            file.write(block)
            digest.update(block)
            tokens += len(ids)
    if tokens < 2:
        name = found[split][0].path if found[split] else split
        raise UserError(f"{name} has {tokens} tokens, but a split needs at least 2: one input and one target")
    size = sum(source.size() for source in found[split])
    return {"tokens": tokens, "unknown": 0, "source_bytes": size, "sha256": digest.hexdigest()}

"""The token files of the splits, at every level."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from tbptt.data import fairseq, subwords
from tbptt.data.config import DataConfig, Level
from tbptt.data.corpora import SPLITS, Corpus
from tbptt.data.sources import Sources, chunks
from tbptt.data.tokenize import Part, count_symbols, count_words, tokenize
from tbptt.data.vocabulary import EOS, UNK, Vocabulary, byte_vocabulary, counted_vocabulary, given_vocabulary
from tbptt.errors import UserError

Counts = dict[str, dict[str, Any]]


def write_splits(corpus: Corpus, config: DataConfig, found: Sources, folder: Path) -> tuple[Vocabulary, Counts]:
    """Write train.bin, valid.bin and test.bin. The vocabulary, and by split the counts and the SHA-256 of its file."""
    # Lower case depends on the neighbours ("Σ" ends a word as another letter): whole lines then, characters too.
    unit = Level.word if config.level is Level.char and config.lower else config.level
    cut = {split: chunks(parts, unit) for split, parts in found.items()}
    if config.name == "fairseq":
        vocabulary = fairseq.read_dictionary(found["train"][0].path.with_name("dict.txt"))
        arrays: dict[str, Iterable[np.ndarray]] = {s: [fairseq.read_tokens(found[s][0].path)] for s in SPLITS}
    elif config.level is Level.byte:
        vocabulary = byte_vocabulary()
        arrays = {split: (np.frombuffer(chunk.read(), dtype=np.uint8) for chunk in cut[split]) for split in SPLITS}
    elif config.level is Level.bpe:
        tokenizer = subwords.make_tokenizer(config, cut["train"])
        tokenizer.save(str(folder / subwords.FILE))
        vocabulary = subwords.vocabulary_of(tokenizer)
        arrays = {split: subwords.encode(tokenizer, cut[split]) for split in SPLITS}
    else:
        return _write_symbols(corpus, config, found, cut, folder)
    counts = {split: _write(folder, split, arrays[split], vocabulary, found) for split in SPLITS}
    if config.level is Level.bpe:
        counts = {split: counts[split] | {"words": count_words(cut[split])} for split in SPLITS}
    return vocabulary, counts


def _write_symbols(
    corpus: Corpus, config: DataConfig, found: Sources, cut: Sources, folder: Path
) -> tuple[Vocabulary, Counts]:
    """Words or characters: cut into parts by several processes, then renumbered."""
    settings = {"level": config.level, "lower": config.lower}
    given = given_vocabulary(Path(config.vocabulary).expanduser(), config.level) if config.vocabulary else None
    if config.level is Level.word:
        settings |= {"line_end": corpus.line_end, "line_start": corpus.line_start}
        if given and corpus.line_end == EOS not in given.ids:  # of a system that marks the end of a line otherwise
            settings |= dict(zip(("line_start", "line_end"), given.line_marks))
    parts: dict[str, list[Part]] = {}
    for split in SPLITS:
        (folder / "parts" / split).mkdir(parents=True, exist_ok=True)
        parts[split] = list(tokenize(cut[split], folder / "parts" / split, config.processes(), split, **settings))
    first = corpus.line_end if config.level is Level.word else ""
    vocabulary = given or counted_vocabulary(count_symbols(parts["train"]), config, first)
    if not len(vocabulary):
        raise UserError(
            f"{found['train'][0].path if found['train'] else 'train'} is empty: there is no vocabulary to make of it"
        )
    counts = {}
    for split in SPLITS:
        unknown: Counter[str] = Counter()
        arrays = (_renumbered(part, vocabulary, unknown) for part in parts[split])
        counts[split] = _write(folder, split, arrays, vocabulary, found) | {"unknown": unknown.total()}
        _refuse_unknown(unknown, vocabulary, split, config)
    return vocabulary, counts


def _renumbered(part: Part, vocabulary: Vocabulary, unknown: Counter[str]) -> np.ndarray:
    """A part's ids in the vocabulary's numbers; what that lacks is counted and becomes `<unk>`."""
    symbols, counts = part.symbols()
    numbers = vocabulary.numbers(symbols)
    for i in np.flatnonzero(numbers < 0):
        unknown[symbols[i]] += counts[i]
    numbers[numbers < 0] = vocabulary.unknown or 0
    return numbers.astype(vocabulary.dtype)[part.ids()]


def _refuse_unknown(unknown: Counter[str], vocabulary: Vocabulary, split: str, config: DataConfig) -> None:
    if unknown and vocabulary.unknown is None:
        some = ", ".join(repr(symbol) for symbol, _ in unknown.most_common(3))
        mend = "use data.min_count=2, which makes one of the rarest, or data.level=byte"
        raise UserError(
            f"the {split} split of data={config.name} has {unknown.total()} tokens ({len(unknown)} types, such as "
            f"{some}) that the vocabulary lacks, and it has no {UNK} to stand for them: {mend}"
        )


def _write(
    folder: Path, split: str, arrays: Iterable[np.ndarray], vocabulary: Vocabulary, found: Sources
) -> dict[str, Any]:
    tokens, digest = 0, hashlib.sha256()
    with open(folder / f"{split}.bin", "wb") as file:
        for ids in arrays:
            wrong = [i for i in (ids.min(), ids.max()) if not 0 <= i < len(vocabulary)] if len(ids) else []
            if wrong:
                raise UserError(
                    f"{found[split][0].path} holds token {wrong[0]}; the vocabulary has {len(vocabulary)} entries"
                )
            block = ids.astype(vocabulary.dtype).tobytes()
            file.write(block)
            digest.update(block)
            tokens += len(ids)
    if tokens < 2:
        where = found[split][0].path if found[split] else split
        raise UserError(f"{where} has {tokens} tokens: a split needs at least 2, one to read and one to predict")
    size = sum(source.size() for source in found[split])
    return {"tokens": tokens, "unknown": 0, "source_bytes": size, "sha256": digest.hexdigest()}

"""A single text file of the user, encoded with the vocabulary of a run as a corpus of one split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tbptt.data.config import Level
from tbptt.data.language import Language
from tbptt.data.prepared import PreparedCorpus
from tbptt.data.sources import Source
from tbptt.data.tokenize import count_words, read_text
from tbptt.errors import UserError


def open_own_text(path: Path, split: str, language: Language) -> PreparedCorpus:
    """A corpus whose only split, `split`, is the text file: one document, if the vocabulary has a start token."""
    vocabulary, ids = language.vocabulary, read_own_text(path, language)
    counts: dict[str, Any] = {"tokens": len(ids), "source_bytes": Source(path).size()}
    if vocabulary.level is Level.bpe:
        counts["words"] = count_words([Source(path)])
    if vocabulary.start is not None:
        counts["documents"] = 1
    meta = {
        "settings": {"name": "text", "level": vocabulary.level.name},
        "vocabulary_sha256": vocabulary.sha256,
        "splits": {split: counts},
        "sources": {"train": {"sha256": None}},
    }
    documents = {} if vocabulary.start is None else {split: np.zeros(1, dtype=np.int64)}
    return PreparedCorpus(path, {split: ids}, vocabulary, meta, documents)


def read_own_text(path: Path, language: Language) -> np.ndarray:
    """The ids of a text file, in the dtype of the vocabulary, behind its start token if it has one.

    UserError for fewer than two tokens.
    """
    source, vocabulary = Source(path), language.vocabulary
    if vocabulary.level is Level.byte:  # any file is valid at byte level
        ids = np.frombuffer(source.read(), dtype=np.uint8)
    else:
        ids = language.read(read_text(source), path)
    ids = language.as_document(ids)
    if len(ids) < 2:
        raise UserError(f"{path} has {len(ids)} tokens, but needs at least 2: one input and one target")
    return ids.astype(vocabulary.dtype)

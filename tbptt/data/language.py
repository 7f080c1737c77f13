"""Encoding of text with the vocabulary and tokenizer of a run; tokens that the vocabulary lacks are reported.

Every run saves them next to its checkpoints: `vocabulary.json`, and at level bpe `tokenizer.json`.
"""

from __future__ import annotations

import logging
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tbptt.data import subwords
from tbptt.data.config import Level
from tbptt.data.documents.pieces import cut
from tbptt.data.prepared import PreparedCorpus
from tbptt.data.tokenize import symbol_ids
from tbptt.data.vocabulary import UNK, Vocabulary, load_vocabulary
from tbptt.errors import UserError

log = logging.getLogger(__name__)
FILE = "vocabulary.json"


@dataclass
class Language:
    """A vocabulary, and the settings to encode text with it."""

    vocabulary: Vocabulary
    lower: bool = False  # words and characters are converted to lower case
    tokenizer: Any = None  # at level bpe only

    def read(self, text: str, where: Path | str) -> np.ndarray:
        """The token ids of a text, (n,) int64; `where` names the text in messages about unknown tokens.

        With a vocabulary that has a start token, the text is encoded like one document, without the start.
        UserError if the vocabulary lacks a token of the text and has no entry for unknown tokens.
        """
        vocabulary = self.vocabulary
        if vocabulary.level is Level.byte:
            return np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int64)
        if vocabulary.level is Level.bpe and vocabulary.start is not None:
            pieces = [piece.decode() for piece in cut(text.encode())]
            return subwords.encode_texts(self.tokenizer, pieces)[0].astype(np.int64)
        if vocabulary.level is Level.bpe:
            return subwords.encode_text(self.tokenizer, text)
        before, after = vocabulary.line_marks
        symbols, local_ids = symbol_ids(text, vocabulary.level, after, before, self.lower)
        ids = vocabulary.lookup(symbols)
        counts = np.bincount(local_ids, minlength=len(symbols))
        unknown = Counter({symbols[i]: int(counts[i]) for i in np.flatnonzero(ids < 0)})
        if unknown:
            self._report(unknown, where, len(local_ids))
            ids[ids < 0] = vocabulary.unknown
        return ids[local_ids]

    def as_document(self, ids: np.ndarray) -> np.ndarray:
        """The ids behind the start token, if the vocabulary has one: (n + 1,) int64, else as they are."""
        start = self.vocabulary.start
        return ids if start is None else np.concatenate([[start], ids]).astype(np.int64)

    def _report(self, unknown: Counter[str], where: Path | str, tokens: int) -> None:
        """Warn about unknown tokens. UserError if the vocabulary has no entry for them."""
        unknown_id = self.vocabulary.unknown
        examples = ", ".join(repr(symbol) for symbol, _ in unknown.most_common(5))
        summary = f"{where}: {unknown.total():,} of {tokens:,} tokens ({len(unknown):,} types, such as {examples})"
        if unknown_id is None:
            raise UserError(f"{summary} are not in the run's vocabulary, which has no {UNK} entry: replace them")
        log.warning("%s are unknown to the run and read as %s", summary, self.vocabulary.symbols[unknown_id])


def corpus_language(corpus: PreparedCorpus) -> Language:
    """The language that a prepared corpus was encoded with."""
    tokenizer = subwords.load_tokenizer(corpus.folder) if corpus.vocabulary.level is Level.bpe else None
    return Language(corpus.vocabulary, corpus.meta["settings"]["lower"], tokenizer)


def save_language(corpus: PreparedCorpus, run_dir: Path) -> None:
    """Copy vocabulary and tokenizer of a prepared corpus to the run directory."""
    for name in (FILE, subwords.FILE):
        if (corpus.folder / name).is_file():
            shutil.copyfile(corpus.folder / name, run_dir / name)


def load_language(run_dir: Path, sha256: str | None, lower: bool) -> Language:
    """The language saved in a run directory. UserError if its vocabulary is missing or has another SHA-256."""
    path = run_dir / FILE
    if not path.is_file():
        raise UserError(f"{path} does not exist: text cannot be encoded without the vocabulary of the run")
    vocabulary = load_vocabulary(path)
    if vocabulary.sha256 != sha256:
        raise UserError(f"{path} is not the vocabulary that the run was trained with")
    return Language(vocabulary, lower, subwords.load_tokenizer(run_dir) if vocabulary.level is Level.bpe else None)

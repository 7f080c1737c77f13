"""The language of a run: what a text is read with. What the vocabulary lacks is told.

Every run keeps it beside its checkpoints: `vocabulary.json`, and at level bpe `tokenizer.json`.
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
from tbptt.data.prepare import PreparedCorpus
from tbptt.data.tokenize import symbol_ids
from tbptt.data.vocabulary import UNK, Vocabulary, written_vocabulary
from tbptt.errors import UserError

log = logging.getLogger(__name__)
FILE = "vocabulary.json"


@dataclass
class Language:
    vocabulary: Vocabulary
    lower: bool = False  # whether words and characters are read in lower case
    tokenizer: Any = None  # at level bpe

    def read(self, text: str, where: Path | str) -> np.ndarray:
        """The tokens of a text, (n,) int64; `where` it stands is said of what the vocabulary lacks.

        UserError if the vocabulary lacks something and has no entry for the unknown.
        """
        vocabulary = self.vocabulary
        if vocabulary.level is Level.byte:
            return np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int64)
        if vocabulary.level is Level.bpe:
            return subwords.encode_text(self.tokenizer, text)
        before, after = vocabulary.line_marks
        symbols, places = symbol_ids(text, vocabulary.level, after, before, self.lower)
        numbers = vocabulary.numbers(symbols)
        counts = np.bincount(places, minlength=len(symbols))
        unknown = Counter({symbols[i]: int(counts[i]) for i in np.flatnonzero(numbers < 0)})
        if unknown:
            self._report(unknown, where, len(places))
            numbers[numbers < 0] = vocabulary.unknown
        return numbers[places]

    def _report(self, unknown: Counter[str], where: Path | str, tokens: int) -> None:
        stand_in = self.vocabulary.unknown
        some = ", ".join(repr(symbol) for symbol, _ in unknown.most_common(5))
        told = f"{where}: {unknown.total():,} of {tokens:,} tokens ({len(unknown):,} types, such as {some})"
        if stand_in is None:
            raise UserError(
                f"{told} are not in the run's vocabulary, which has no {UNK} to stand for them: replace them"
            )
        log.warning("%s are unknown to the run and read as %s", told, self.vocabulary.symbols[stand_in])


def corpus_language(corpus: PreparedCorpus) -> Language:
    """What a prepared corpus was read with."""
    tokenizer = subwords.open_tokenizer(corpus.folder) if corpus.vocabulary.level is Level.bpe else None
    return Language(corpus.vocabulary, corpus.meta["settings"]["lower"], tokenizer)


def keep_language(corpus: PreparedCorpus, run_dir: Path) -> None:
    """Put what a text must be read with into the run directory."""
    for name in (FILE, subwords.FILE):
        if (corpus.folder / name).is_file():
            shutil.copyfile(corpus.folder / name, run_dir / name)


def kept_language(run_dir: Path, sha256: str | None, lower: bool) -> Language:
    """The language in a run directory. UserError if it has none, or not the vocabulary of that SHA-256."""
    path = run_dir / FILE
    if not path.is_file():
        raise UserError(f"{path} is not there: without the run's vocabulary no text can be read as its model needs")
    vocabulary = written_vocabulary(path)
    if vocabulary.sha256 != sha256:
        raise UserError(f"{path} is not the vocabulary that the run was trained with")
    return Language(vocabulary, lower, subwords.open_tokenizer(run_dir) if vocabulary.level is Level.bpe else None)

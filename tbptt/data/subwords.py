"""Subword tokens: byte-level BPE (Sennrich et al. 2016; Radford et al. 2019) with the `tokenizers` library."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tbptt.data import reading
from tbptt.data.config import DataConfig, Level
from tbptt.data.sources import Source
from tbptt.data.tokenize import read_text
from tbptt.data.vocabulary import Vocabulary
from tbptt.errors import UserError

FILE = "tokenizer.json"


def make_tokenizer(config: DataConfig, train: list[Source]) -> Any:
    """Load the tokenizer of data.vocabulary, or train one of data.bpe_size entries on the training text."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    if config.vocabulary is not None:
        return read_tokenizer(Path(config.vocabulary).expanduser(), f"data.vocabulary={config.vocabulary}")
    tokenizer = Tokenizer(models.BPE())
    if config.lower:
        tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=config.bpe_size, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator((read_text(source).splitlines(keepends=True) for source in train), trainer)
    return tokenizer


def read_tokenizer(path: Path, name: str) -> Any:
    """Read a user's tokenizer.json. UserError, with `name` for the file, if it is not one."""
    from tokenizers import Tokenizer

    text = reading.read_users_text(path, name)
    try:
        tokenizer = Tokenizer.from_str(text)
    except Exception as error:  # the library raises nothing narrower
        raise UserError(f"{name} is not a valid tokenizer.json: {error}") from error
    tokenizer.no_truncation()  # a tokenizer.json may have these settings
    tokenizer.no_padding()
    return tokenizer


def tokenizer_vocabulary(tokenizer: Any) -> Vocabulary:
    """The vocabulary of a tokenizer, in the order of its ids."""
    ids = tokenizer.get_vocab()
    return Vocabulary(Level.bpe, sorted(ids, key=ids.__getitem__))


def encode(tokenizer: Any, sources: list[Source]) -> Iterator[np.ndarray]:
    """The ids of each chunk; the library encodes lines in parallel."""
    for source in sources:
        yield encode_text(tokenizer, read_text(source))


def encode_text(tokenizer: Any, text: str) -> np.ndarray:
    """The ids of a text, encoded line by line: (n,) int64."""
    encoded = tokenizer.encode_batch_fast(text.splitlines(keepends=True), add_special_tokens=False)
    return np.concatenate([np.zeros(0, np.int64), *(np.array(line.ids, dtype=np.int64) for line in encoded)])


def load_tokenizer(folder: Path) -> Any:
    """Load the tokenizer of a prepared corpus or a run. UserError if it is missing or invalid."""
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(folder / FILE))
    except Exception as error:  # the library raises nothing narrower
        raise UserError(f"{folder / FILE} cannot be read ({error})") from error

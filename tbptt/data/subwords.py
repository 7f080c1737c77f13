"""Subword tokens: byte-level BPE (Sennrich et al. 2016; Radford et al. 2019) with the `tokenizers` library."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tbptt.data import reading
from tbptt.data.config import DataConfig, Level
from tbptt.data.sources import Source
from tbptt.data.tokenize import read_text
from tbptt.data.vocabulary import START, Vocabulary, new_symbol
from tbptt.errors import UserError

log = logging.getLogger(__name__)
FILE = "tokenizer.json"
BATCH = 1 << 20  # characters encoded at once: what the library returns takes some hundred bytes for each token
# Special tokens that begin a document, of tokenizers whose post-processor puts none there.
STARTS = ("<s>", "<bos>", "[BOS]", "<|begin_of_text|>", "<|startoftext|>", "<|endoftext|>")


def make_tokenizer(config: DataConfig, train: Iterable[list[str]]) -> Any:
    """Load the tokenizer of data.vocabulary, or train one of data.bpe_size entries on batches of training text."""
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
    tokenizer.train_from_iterator(train, trainer)
    if (found := tokenizer.get_vocab_size()) < config.bpe_size:
        log.warning("data.bpe_size=%s: the training text has only %s subwords", config.bpe_size, f"{found:,}")
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


def tokenizer_vocabulary(tokenizer: Any, start: str | None = None) -> Vocabulary:
    """The vocabulary of a tokenizer, in the order of its ids; `start` is the entry that begins a document.

    UserError if its ids have gaps.
    """
    ids = tokenizer.get_vocab()
    if missing := set(range(len(ids))) - set(ids.values()):
        raise UserError(
            f"the tokenizer has no entry for the id {min(missing)}, but for {max(ids.values())}: give another "
            "tokenizer.json, whose ids have no gaps"
        )
    return Vocabulary(Level.bpe, sorted(ids, key=ids.__getitem__), start)


def with_start(tokenizer: Any) -> str:
    """The entry that begins a document, in the tokenizer's own way; one is added to a tokenizer that has none."""
    plain, framed = (tokenizer.encode("a", add_special_tokens=framing).ids for framing in (False, True))
    if len(framed) > len(plain) and framed[:1] != plain[:1]:
        return tokenizer.id_to_token(framed[0])
    special = {token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special}
    added_before = (name for name in special if re.fullmatch(f"<*{START}>*", name))
    known = next((name for name in (*STARTS, *added_before) if name in special), None)
    if known is None:
        known = new_symbol(tokenizer.get_vocab())
        tokenizer.add_special_tokens([known])
    return known


def training_lines(sources: Iterable[Source]) -> Iterator[list[str]]:
    """The lines of each chunk."""
    return (read_text(source).splitlines(keepends=True) for source in sources)


def encode(tokenizer: Any, sources: list[Source]) -> Iterator[np.ndarray]:
    """The ids of each chunk; the library encodes lines in parallel."""
    for source in sources:
        yield encode_text(tokenizer, read_text(source))


def encode_text(tokenizer: Any, text: str) -> np.ndarray:
    """The ids of a text, encoded line by line: (n,) int64."""
    arrays = [np.zeros(0, np.int64)]
    for batch in _batches(text.splitlines(keepends=True)):
        arrays += _encoded(tokenizer, batch)
    return np.concatenate(arrays).astype(np.int64)


def encode_texts(tokenizer: Any, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """The ids of N texts, each encoded as a whole: (n,) uint32, and how many each has (N,).

    Special tokens that are written in a text are text: they begin no document.
    """
    tokenizer.encode_special_tokens = True
    arrays = [np.zeros(0, np.uint32)]
    for batch in _batches(texts):
        arrays += _encoded(tokenizer, batch)
    return np.concatenate(arrays), np.array([len(ids) for ids in arrays[1:]], dtype=np.int64)


def _batches(texts: list[str]) -> Iterator[list[str]]:
    """The texts in batches of about BATCH characters."""
    batch, size = list[str](), 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= BATCH:
            yield batch
            batch, size = [], 0
    yield batch


def _encoded(tokenizer: Any, batch: list[str]) -> list[np.ndarray]:
    encoded = tokenizer.encode_batch_fast(batch, add_special_tokens=False)
    return [np.array(text.ids, dtype=np.uint32) for text in encoded]


def load_tokenizer(folder: Path) -> Any:
    """Load the tokenizer of a prepared corpus or a run. UserError if it is missing or invalid."""
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(folder / FILE))
    except Exception as error:  # the library raises nothing narrower
        raise UserError(f"{folder / FILE} cannot be read ({error})") from error

"""The tokenizer.json of a pretrained model, with an entry for every id that the model has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tbptt.data import subwords
from tbptt.data.vocabulary import Vocabulary
from tbptt.errors import UserError


def read_tokenizer(path: Path, n_token: int) -> tuple[Any, Vocabulary]:
    """The tokenizer and its vocabulary. UserError if it is not one, or not of a model with `n_token` entries.

    Embeddings often have more rows than the tokenizer has entries: entries `<unused N>` are added for them, after one
    that begins a document if the tokenizer has none.
    """
    tokenizer = subwords.read_tokenizer(path, str(path))
    count = max(tokenizer.get_vocab().values(), default=-1) + 1
    if count > n_token:
        raise UserError(f"{path} has {count:,} entries but the model {n_token:,}: it is not the model's tokenizer")
    if count < n_token:
        subwords.with_start(tokenizer)
        count = max(tokenizer.get_vocab().values()) + 1
    tokenizer.add_tokens([f"<unused {i}>" for i in range(count, n_token)])
    if missing := set(range(n_token)) - set(tokenizer.get_vocab().values()):
        raise UserError(f"{path} has no entry for the id {min(missing)}, so that it cannot be imported")
    return tokenizer, subwords.tokenizer_vocabulary(tokenizer)

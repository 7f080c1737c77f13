"""A model as read from another system's checkpoint, before its conversion to ours."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from tbptt.data.config import Level
from tbptt.data.fairseq import read_dictionary
from tbptt.data.reading import read_users_text
from tbptt.data.vocabulary import Vocabulary, load_vocabulary, read_vocabulary_file
from tbptt.errors import UserError
from tbptt.interop.pickled_modules import conversion
from tbptt.interop.pickles import Placeholder, load_pickle, load_torch

WHOLE = "in it"  # the location of a state dict that is the file's only content
PARALLEL_PREFIX = "module."  # DataParallel, DistributedDataParallel and FP16_Module put it before every name


def unchanged(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return dict(values)


@dataclass
class ForeignAdam:
    state_dict: Any  # as read, unchecked; None if the file has none
    settings: Mapping[str, Any] = field(default_factory=dict)  # betas, eps, weight_decay, where the state has none
    decoupled: bool = False  # its weight decay is AdamW's; else it is added to the gradient (L2)


@dataclass
class ForeignModel:
    """`weights` have the source's names and order; `into_original` converts such values to the original's names."""

    arguments: dict[str, Any]  # constructor arguments of the original
    weights: dict[str, Tensor]
    into_original: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] = unchanged
    vocabulary: Vocabulary | None = None
    step: int = 0  # updates made
    adam: ForeignAdam | None = None  # None: it was trained with another optimizer, or the file does not say
    notes: list[str] = field(default_factory=list)  # what is computed differently, and what is not imported
    tokenizer: Path | None = None  # a tokenizer.json, whose entries are then the vocabulary


def read_json(path: Path, key: str) -> dict[str, Any]:
    text = read_users_text(path, f"{key}={path}")
    try:
        values = json.loads(text)
    except ValueError as error:
        raise UserError(f"{key}={path} cannot be read as JSON ({error})") from error
    if not isinstance(values, dict):
        raise UserError(f"{key}={path} must hold a JSON object")
    return values


def cutoffs_of(settings: Mapping[str, Any]) -> list[int]:
    if not isinstance(cutoffs := settings["cutoffs"], list) or not all(type(cutoff) is int for cutoff in cutoffs):
        raise UserError(f"cutoffs={cutoffs} in the checkpoint's settings must be a list of whole numbers")
    return cutoffs


def as_state_dict(value: Any, path: Path, location: str) -> dict[str, Tensor]:
    """Check that `value` is a state dict. UserError if it is a pickled module (saying how to convert it) or other."""
    if isinstance(value, Placeholder):
        raise UserError(
            f"{path} holds a pickled {value.origin}, whose code is not run here: "
            + conversion(path, value.origin, in_dict=location != WHOLE)
        )
    if not isinstance(value, dict) or not value or not all(isinstance(each, Tensor) for each in value.values()):
        raise UserError(f"{path} has no state dict (names and tensors) {location}")
    parallel = all(name.startswith(PARALLEL_PREFIX) for name in value)
    return {name.removeprefix(PARALLEL_PREFIX if parallel else ""): each for name, each in value.items()}


def read_vocabulary(path: Path) -> Vocabulary:
    """Read a vocabulary file of any of the systems. UserError if it is not one."""
    if path.name == "dict.txt":
        return read_dictionary(path)
    if path.suffix == ".json":
        return load_vocabulary(path)
    if path.suffix == ".txt":
        try:
            return read_vocabulary_file(path, Level.word)
        except UserError as error:  # it names the setting of a corpus, which is not where this file comes from
            raise UserError(str(error).replace("data.vocabulary=", "")) from error
    saved = load_torch(path) if path.suffix in (".bin", ".pt") else load_pickle(path)
    symbols = find_symbols(saved)
    if symbols is None:
        raise UserError(f"{path} holds no vocabulary: it must have a list of words idx2sym")
    return Vocabulary(Level.word, symbols)


def find_symbols(saved: Any) -> list[str] | None:
    """The words of a pickled vocabulary, a pickled corpus, or the attributes of either; None if there are none."""
    attributes = saved.attributes if isinstance(saved, Placeholder) else saved
    if not isinstance(attributes, dict):
        return None
    if "vocab" in attributes:
        return find_symbols(attributes["vocab"])
    symbols = attributes.get("idx2sym")
    is_word_list = isinstance(symbols, list) and all(isinstance(symbol, str) for symbol in symbols)
    return symbols if is_word_list else None

"""Another system's model, as its file has it: what every reader hands over and the import makes a run of."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from tbptt.data.config import Level
from tbptt.data.fairseq import read_dictionary
from tbptt.data.vocabulary import Vocabulary, given_vocabulary, written_vocabulary
from tbptt.errors import UserError
from tbptt.interop.pickles import StandIn, load_pickle, load_torch


def unchanged(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return dict(values)


@dataclass
class Foreign:
    """`weights` in the source's names and order; `into_original` renames and rearranges such values as the original."""

    arguments: dict[str, Any]  # of the original's constructor
    weights: dict[str, Tensor]
    into_original: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] = unchanged
    vocabulary: Vocabulary | None = None
    step: int = 0  # updates made
    adam: dict[str, Any] | None = None  # the state dict of its Adam, where it has one that means the same here
    notes: list[str] = field(default_factory=list)  # what is computed differently, and what is left behind


def read_json(path: Path, key: str) -> dict[str, Any]:
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{key}={path} cannot be read as JSON ({error})") from error
    if not isinstance(read, dict):
        raise UserError(f"{key}={path} must hold an object of names and values")
    return read


def listed_cutoffs(settings: Mapping[str, Any]) -> list[int]:
    if not isinstance(cutoffs := settings["cutoffs"], list) or not all(type(cutoff) is int for cutoff in cutoffs):
        raise UserError(f"cutoffs={cutoffs} of the checkpoint's settings must be a list of whole numbers")
    return cutoffs


def tensors(value: Any, path: Path, where: str) -> dict[str, Tensor]:
    """`value` as a state dict. UserError, with what to do, if it is a whole module or something else."""
    if isinstance(value, StandIn):
        raise UserError(
            f"{path} holds a pickled {value.origin}, whose code is not run here; where that code is installed, run "
            f"`python -c \"import torch; torch.save(torch.load({str(path.name)!r}, map_location='cpu').state_dict(), "
            "'state_dict.pt')\"` (torch 2.6 and newer: with weights_only=False) and import state_dict.pt"
        )
    if not isinstance(value, dict) or not value or not all(isinstance(each, Tensor) for each in value.values()):
        raise UserError(f"{path} has no state dict (names and tensors) {where}")
    return dict(value)


def read_vocabulary(path: Path) -> Vocabulary:
    """The words of any of the systems' vocabulary files, in order. UserError if it is none."""
    if path.name == "dict.txt":
        return read_dictionary(path)
    if path.suffix == ".json":
        return written_vocabulary(path)
    if path.suffix == ".txt":
        return given_vocabulary(path, Level.word)
    held = load_torch(path) if path.suffix in (".bin", ".pt") else load_pickle(path)
    symbols = symbols_of(held)
    if symbols is None:
        raise UserError(f"{path} holds no vocabulary: there is no idx2sym in it")
    return Vocabulary(Level.word, symbols)


def symbols_of(held: Any) -> list[str] | None:
    """The list of words of a pickled vocabulary, of its attributes, or of the corpus that has it; None without one."""
    attributes = held.attributes if isinstance(held, StandIn) else held
    if not isinstance(attributes, dict):
        return None
    if "vocab" in attributes:
        return symbols_of(attributes["vocab"])
    symbols = attributes.get("idx2sym")
    whole = isinstance(symbols, list) and all(isinstance(symbol, str) for symbol in symbols)
    return symbols if whole else None

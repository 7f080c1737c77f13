"""Reads another system's checkpoint and converts it to our model, vocabulary and optimizer state."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tbptt.data import language, subwords
from tbptt.data.config import Level
from tbptt.data.vocabulary import Vocabulary
from tbptt.errors import UserError
from tbptt.interop import adam, fairseq, hf, nvidia, original, original_files, stacks, transfo_xl
from tbptt.interop.config import ImportConfig, ImportFormat
from tbptt.interop.foreign import ForeignModel, read_vocabulary
from tbptt.interop.stacks import ForeignStack
from tbptt.interop.tokenizer import read_tokenizer
from tbptt.models.stack import Stack, StackConfig
from tbptt.models.transformer_xl import TransformerXL, TransformerXLConfig

# The names that the systems, and task=export, give to their vocabularies.
VOCABULARIES = ("dict.txt", "cache.pt", *transfo_xl.VOCABULARIES, language.FILE, subwords.FILE)
ROUNDED = (torch.float16, torch.bfloat16)


@dataclass
class Imported:
    """A converted model, and what else the checkpoint held."""

    model: TransformerXL | Stack
    config: TransformerXLConfig | StackConfig
    vocabulary: Vocabulary | None
    tokenizer: Any  # of a vocabulary of subwords
    step: int
    adam: dict[str, Any] | None  # {"state": ...} as in the state dict of an Adam over the model's parameters
    optimizer: list[str]  # the overrides that give our optimizer the settings of its optimizer, as far as known
    notes: list[str]
    model_type: str | None = None  # of transformers' recurrent and hybrid models


def read(config: ImportConfig) -> Imported:
    """Read and convert a checkpoint. UserError if anything is damaged, missing or inconsistent."""
    assert config.path is not None
    path = Path(config.path).expanduser()
    vocabulary = None if config.vocabulary is None else _vocabulary_file(config.vocabulary)
    foreign: ForeignModel | ForeignStack
    if config.format is ImportFormat.hf:
        foreign = hf.read(path)
    elif not path.is_file():
        raise UserError(f"import.path={config.path} must be a checkpoint file")
    elif config.format is ImportFormat.original:
        foreign = original_files.read(path, None if config.config is None else Path(config.config).expanduser())
    elif config.format is ImportFormat.fairseq:
        foreign = fairseq.read(path, vocabulary)
    else:
        foreign = nvidia.read(path)
    if vocabulary is not None and config.format is not ImportFormat.fairseq:
        is_tokenizer = vocabulary.name == subwords.FILE
        foreign.tokenizer = vocabulary if is_tokenizer else None
        foreign.vocabulary = None if is_tokenizer else read_vocabulary(vocabulary)
    if nonfinite := [name for name, value in foreign.weights.items() if not value.isfinite().all()]:
        raise UserError(f"the weights are damaged: {', '.join(nonfinite[:3])} hold numbers that are not finite")
    rounded = {str(value.dtype).removeprefix("torch.") for value in foreign.weights.values() if value.dtype in ROUNDED}
    if rounded:
        stored = " and ".join(sorted(rounded))
        foreign.notes.append(f"its weights were stored in {stored}: the lost precision cannot be restored")
    return _stack(foreign) if isinstance(foreign, ForeignStack) else _transformer_xl(foreign)


def _vocabulary_file(name: str) -> Path:
    """UserError if it is a folder, naming the vocabulary in it."""
    path = Path(name).expanduser()
    if path.is_dir():
        found = next((file for file in VOCABULARIES if (path / file).is_file()), None)
        hint = f"import.vocabulary={path / found}" if found else f"{', '.join(VOCABULARIES)} (it has none of these)"
        raise UserError(f"import.vocabulary={name} is a folder: give the vocabulary file in it, {hint}")
    return path


def _stack(foreign: ForeignStack) -> Imported:
    vocabulary, tokenizer = _language(foreign, foreign.n_token)
    model, model_type = stacks.model(foreign), foreign.family.model_type
    return Imported(model, foreign.config, vocabulary, tokenizer, 0, None, [], foreign.notes, model_type)


def _language(foreign: ForeignModel | ForeignStack, n_token: int) -> tuple[Vocabulary | None, Any]:
    """The vocabulary, and at level bpe its tokenizer. UserError if it is not that of a model with `n_token` entries."""
    vocabulary = foreign.vocabulary
    if foreign.tokenizer is not None and (vocabulary is None or vocabulary.level is Level.bpe):
        tokenizer, vocabulary = read_tokenizer(foreign.tokenizer, n_token)
        return vocabulary, tokenizer
    if vocabulary is not None and len(vocabulary) != n_token:
        raise UserError(
            f"the vocabulary has {len(vocabulary):,} words but the model {n_token:,} entries: give the vocabulary that "
            "the model was trained with as import.vocabulary=FILE"
        )
    return vocabulary, None


def _transformer_xl(foreign: ForeignModel) -> Imported:
    n_token = foreign.arguments["n_token"]
    if type(n_token) is not int or n_token < 1:
        raise UserError(f"n_token={n_token}, the size of the model's vocabulary, must be a positive whole number")
    vocabulary, tokenizer = _language(foreign, n_token)
    config = original.model_config(foreign.arguments)
    model = _build(config, n_token)
    original.load(model, foreign.into_original(foreign.weights))
    notes = list(foreign.notes)
    state, optimizer = None, list[str]()
    if foreign.adam is not None:
        optimizer, descriptions = adam.settings(foreign.adam)
        notes += descriptions
        if foreign.adam.state_dict is not None:
            state, descriptions = adam.convert(model, foreign)
            notes += descriptions
    step = foreign.step or (adam.last_step(foreign.adam) if foreign.adam else 0)  # the original stores it only there
    return Imported(model, config, vocabulary, tokenizer, step, state, optimizer, notes)


def _build(config: TransformerXLConfig, n_token: int) -> TransformerXL:
    """UserError if there is no such model. The settings are the checkpoint's: an import has no model.* to change."""
    if config.cutoffs and config.cutoffs[-1] >= n_token and config.cutoffs == sorted(config.cutoffs):
        raise UserError(
            f"the checkpoint's settings have cutoffs={list(config.cutoffs)} beyond its vocabulary of n_token={n_token} "
            "entries: a cluster without words does not exist here, so that such a model cannot be imported"
        )
    try:
        return config.build(n_token)
    except UserError as error:
        raise UserError(f"the checkpoint's settings describe no model: {str(error).replace('model.', '')}") from error

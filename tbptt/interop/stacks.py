"""Directories of recurrent and hybrid models (`tbptt.interop.families`), as stacks and back."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tbptt.data.vocabulary import Vocabulary
from tbptt.errors import UserError
from tbptt.interop.families import FAMILIES
from tbptt.interop.families.family import WHERE, Family, Settings, Source, read_settings
from tbptt.interop.hf_files import find_language, read_weights, write_directory
from tbptt.interop.layout import from_layout, to_layout
from tbptt.models.mixers.protocol import MixerConfig
from tbptt.models.stack import FeedForwardKind, Stack, StackConfig

OUTPUT = "lm_head.weight"
NO_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")  # transformers has defaults for them
FREE = ("name", "dropout", "tgt_len", "tie_projs", *StackConfig.RESULT_NEUTRAL)  # have no place in config.json
FREE_OF_MIXERS = ("chunk_len",)


@dataclass
class ForeignStack:
    """A model as read; `weights` have the names of the source's modules."""

    family: Source
    config: StackConfig
    n_token: int
    weights: dict[str, Tensor]
    vocabulary: Vocabulary | None
    tokenizer: Path | None  # a tokenizer.json, whose entries are then the vocabulary
    notes: list[str] = field(default_factory=list)


def read(folder: Path, family: Source, given: Settings) -> ForeignStack:
    """Read a directory with this config.json. UserError if a file is missing or damaged, or a setting not supported."""
    config, n_token = _config(family, given)
    notes = []
    if "attention" in config.layers and config.attention.window is None:
        notes.append(
            "its attention sees all earlier tokens (model.attention.window=null): the memory grows with the text"
        )
    if (words := given.get("vocab_size", n_token)) < n_token:
        notes.append(
            f"its vocabulary of {words:,} is filled up to {n_token:,} entries, all with probabilities, as in the source"
        )
    weights = read_weights(folder)
    for part in family.left_out:
        kept = {name: value for name, value in weights.items() if not name.startswith(part)}
        if len(kept) < len(weights):
            count = len(weights) - len(kept)
            notes.append(f"{count} of its weights, {part}*, are not of the language model, and are not imported")
        weights = kept
    return ForeignStack(family, config, n_token, family.loaded(weights), *find_language(folder), notes)


def _config(family: Source, given: Settings) -> tuple[StackConfig, int]:
    """The configuration and the vocabulary size. UserError for settings that are not supported or contradict others."""
    problem = f"the settings in {WHERE} describe no {family.model_type} model"
    try:
        settings = read_settings(family, given)
        if settings["vocab_size"] < 1:
            raise UserError(f"{WHERE} has vocab_size={settings['vocab_size']}, which must be 1 or more")
        config, n_token = family.config(settings), family.n_token(settings)
        try:
            config.check(n_token)
        except UserError as error:
            raise UserError(f"{problem}: {str(error).replace('model.', '')}") from error
    except (TypeError, ValueError, ArithmeticError, AttributeError, LookupError) as error:
        raise UserError(f"{problem} ({error})") from error
    return config, n_token


@torch.no_grad()
def model(foreign: ForeignStack) -> Stack:
    """UserError if a weight is missing, unexpected or of another shape."""
    config, weights = foreign.config, dict(foreign.weights)
    layout = foreign.family.layout(config)
    if config.tie_weight and OUTPUT in weights:
        embedding = next(name for name, stored in layout.items() if stored.parameters == ("embedding.tables.0",))
        if embedding in weights and not torch.equal(weights.pop(OUTPUT), weights[embedding]):
            raise UserError(f"{OUTPUT} and {embedding} differ, but the configuration ties them")
    made = config.build(foreign.n_token)
    parameters = dict(made.named_parameters())
    shapes = {name: parameter.shape for name, parameter in parameters.items()}
    for name, value in from_layout(weights, layout, shapes).items():
        parameters[name].copy_(value)
    return made


def family_of(config: StackConfig, imported: str | None = None) -> Family:
    """The model type that represents a stack: `imported`, that of its source, or another.

    UserError if there is none, naming what the nearest one lacks.
    """
    mixers = {mixer.NAME for mixer in config.mixers()}
    families = sorted(FAMILIES.values(), key=lambda family: family.model_type != imported)
    lacking: dict[str, list[str]] = {}
    for family in families:
        if mixers <= family.mixers:
            ours = _essence(config)
            theirs = _essence(family.config({**family.defaults, **family.settings(config)}))
            lacking[family.model_type] = [f"model.{key}={ours[key]}" for key in ours if ours[key] != theirs.get(key)]
            if not lacking[family.model_type]:
                return family
    least = min(lacking, key=lambda name: len(lacking[name]), default=None)
    reason = f"{least} has no {', '.join(lacking[least][:3])}" if least else f"none has the mixers {sorted(mixers)}"
    raise UserError(f"export.format=hf writes {', '.join(FAMILIES)}, of which {reason}: use export.format=safetensors")


def _essence(config: StackConfig) -> dict[str, Any]:
    """The settings on which the model's function depends, each in one form, under their names on the command line."""
    values = {
        key: value.value if isinstance(value, Enum) else value
        for key, value in vars(config).items()
        if key not in FREE and not isinstance(value, MixerConfig)
    }
    mixers = {mixer.NAME: mixer for mixer in config.mixers()}
    values |= {"layers": [mixer.NAME for mixer in config.mixers()], "d_embed": config.d_embed or config.d_model}
    values |= {"norm_after": sorted(config.norm_after), "cutoffs": list(config.cutoffs)}
    if config.feed_forward is FeedForwardKind.none:
        del values["d_inner"]
    for name, mixer in mixers.items():
        resolved = {"n_kv_head": getattr(mixer, "kv_heads", None), "n_value_head": getattr(mixer, "value_heads", None)}
        resolved |= {"width": getattr(mixer, "width", None) or config.d_model}
        for each in dataclasses.fields(mixer):
            if each.name not in FREE_OF_MIXERS:
                value = resolved.get(each.name, getattr(mixer, each.name))
                values[f"{name}.{each.name}"] = value.value if isinstance(value, Enum) else value
    return values


def write(made: Stack, config: StackConfig, folder: Path, imported: str | None = None) -> None:
    """Write a directory that transformers reads, without the tied weight; `imported` is as of `family_of`."""
    family = family_of(config, imported)
    named = {name: value.detach() for name, value in made.named_parameters()}
    settings = dict(family.fixed) | family.settings(config) | dict.fromkeys(NO_TOKENS)
    settings |= {"vocab_size": made.embedding.bounds[-1][1], "model_type": family.model_type}
    settings |= {"architectures": [family.architecture], "dtype": "float32"}
    write_directory(folder, settings, family.saved(to_layout(named, family.layout(config))))

"""Reads another system's checkpoint and converts it to our model, vocabulary and optimizer state."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tbptt.data.vocabulary import Vocabulary
from tbptt.errors import UserError
from tbptt.interop import fairseq, hf, nvidia, original, original_files
from tbptt.interop.config import ImportConfig, ImportFormat
from tbptt.interop.foreign import ForeignModel, read_vocabulary
from tbptt.models.transformer_xl import TransformerXL, TransformerXLConfig


@dataclass
class Imported:
    """A converted model, and what else the checkpoint held."""

    model: TransformerXL
    config: TransformerXLConfig
    vocabulary: Vocabulary | None
    step: int
    adam: dict[str, Any] | None  # {"state": ...} as in the state dict of an Adam over the model's parameters
    notes: list[str]


def read(config: ImportConfig) -> Imported:
    """Read and convert a checkpoint. UserError if anything is damaged, missing or inconsistent."""
    assert config.path is not None
    path = Path(config.path).expanduser()
    vocabulary = None if config.vocabulary is None else Path(config.vocabulary).expanduser()
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
        foreign.vocabulary = read_vocabulary(vocabulary)
    return _convert(foreign)


def _convert(foreign: ForeignModel) -> Imported:
    vocabulary, n_token = foreign.vocabulary, foreign.arguments["n_token"]
    if type(n_token) is not int or n_token < 1:
        raise UserError(f"n_token={n_token}, the size of the model's vocabulary, must be a positive whole number")
    if vocabulary is not None and len(vocabulary) != n_token:
        raise UserError(
            f"the vocabulary has {len(vocabulary):,} words but the model {n_token:,} entries: give the vocabulary that "
            "the model was trained with as import.vocabulary=FILE"
        )
    if nonfinite := [name for name, value in foreign.weights.items() if not value.isfinite().all()]:
        raise UserError(f"the weights are damaged: {', '.join(nonfinite[:3])} hold numbers that are not finite")
    config = original.model_config(foreign.arguments)
    model = config.build(n_token)
    original.load(model, foreign.into_original(foreign.weights))
    notes = list(foreign.notes)
    if any(value.dtype is torch.float16 for value in foreign.weights.values()):
        notes.append("its weights were stored in float16: the lost precision cannot be restored")
    adam = None
    if foreign.adam is not None:
        adam = _convert_adam(model, foreign)
        if adam is None:
            notes.append("its optimizer state does not match its weights and is not imported")
    step = foreign.step or (int(adam["state"][0]["step"]) if adam else 0)  # the original stores it only there
    return Imported(model, config, vocabulary, step, adam, notes)


def _convert_adam(model: TransformerXL, foreign: ForeignModel) -> dict[str, Any] | None:
    """Convert an Adam state from the source's parameter indices to ours. None if it does not match the weights.

    Parameters are indexed in state-dict order, tied ones at their first name. fairseq's fp16 optimizer keeps all of
    them in one flat vector.
    """
    originals = foreign.into_original(foreign.weights)
    duplicates = original.tied_names(model) | original.BUFFERS
    shapes = {
        name: value.shape
        for (name, value), original_name in zip(foreign.weights.items(), originals)
        if original_name not in duplicates
    }
    try:
        assert foreign.adam is not None
        indices = [index for group in foreign.adam["param_groups"] for index in group["params"]]
        states = [foreign.adam["state"][index] for index in indices]
        moments = {
            key: original.convert_parameters(model, foreign.into_original(_by_name([s[key] for s in states], shapes)))
            for key in ("exp_avg", "exp_avg_sq")
        }
        step = float(states[0]["step"])
    except (KeyError, TypeError, AttributeError, RuntimeError, IndexError, ValueError, UserError):
        return None
    converted = {}
    for index, (name, _) in enumerate(model.named_parameters()):
        converted[index] = {key: moments[key][name].float().contiguous() for key in moments}
        converted[index]["step"] = torch.tensor(step)
    return {"state": converted}


def _by_name(values: list[Tensor], shapes: dict[str, torch.Size]) -> dict[str, Tensor]:
    """Name and reshape one tensor per parameter, or one flat vector of all. ValueError if the sizes do not match."""
    if len(values) == 1 and values[0].dim() == 1:
        values = list(values[0].split([shape.numel() for shape in shapes.values()]))
    if len(values) != len(shapes):
        raise ValueError(f"{len(values)} tensors for {len(shapes)} parameters")
    return {name: value.reshape(shape) for (name, shape), value in zip(shapes.items(), values)}

"""Another system's checkpoint, read and checked, as a model of the framework's with what came along."""

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
from tbptt.interop.foreign import Foreign, read_vocabulary
from tbptt.models.transformer_xl import TransformerXL, TransformerXLConfig


@dataclass
class Imported:
    """A model of the framework's, and what came with it."""

    model: TransformerXL
    config: TransformerXLConfig
    vocabulary: Vocabulary | None
    step: int
    adam: dict[str, Any] | None  # `state` as in the state dict of an Adam over the model's parameters
    notes: list[str]


def read(config: ImportConfig) -> Imported:
    """Read and check all of it. UserError, in one sentence, for what is wrong, damaged, missing or does not fit."""
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
    return _built(foreign)


def _built(foreign: Foreign) -> Imported:
    words, n_token = foreign.vocabulary, foreign.arguments["n_token"]
    if type(n_token) is not int or n_token < 1:
        raise UserError(f"n_token={n_token}, the entries of the model's vocabulary, must be a whole number")
    if words is not None and len(words) != n_token:
        raise UserError(
            f"the vocabulary has {len(words):,} words and the model {n_token:,} entries: it is another model's; give "
            "import.vocabulary=FILE, the one it was trained with"
        )
    if broken := [name for name, value in foreign.weights.items() if not value.isfinite().all()]:
        raise UserError(f"the weights are damaged: {', '.join(broken[:3])} hold numbers that are not finite")
    config = original.model_config(foreign.arguments)
    model = config.build(n_token)
    original.load(model, foreign.into_original(foreign.weights))
    notes = list(foreign.notes)
    if any(value.dtype is torch.float16 for value in foreign.weights.values()):
        notes.append("its weights are in half precision, and stay as coarse as they are")
    adam = None
    if foreign.adam is not None:
        adam = _adam(model, foreign)
        if adam is None:
            notes.append("the state of its optimizer does not fit its weights and is left behind")
    step = foreign.step or (int(adam["state"][0]["step"]) if adam else 0)  # the original's only record of it
    return Imported(model, config, words, step, adam, notes)


def _adam(model: TransformerXL, foreign: Foreign) -> dict[str, Any] | None:
    """The source's Adam state, kept by the number of the parameter there, by that of ours. None if it does not fit.

    A module's parameters come in the order of its state dict, tied ones at their first name; fairseq's half precision
    keeps all of them in one flat vector.
    """
    originals = foreign.into_original(foreign.weights)
    again = original.tied_names(model) | original.BUFFERS
    shapes = {
        name: value.shape for (name, value), there in zip(foreign.weights.items(), originals) if there not in again
    }
    try:
        assert foreign.adam is not None
        numbers = [number for group in foreign.adam["param_groups"] for number in group["params"]]
        states = [foreign.adam["state"][number] for number in numbers]
        moments = {
            key: original.arranged(model, foreign.into_original(_by_name([state[key] for state in states], shapes)))
            for key in ("exp_avg", "exp_avg_sq")
        }
        step = float(states[0]["step"])
    except (KeyError, TypeError, AttributeError, RuntimeError, IndexError, ValueError, UserError):
        return None
    kept = {}
    for number, (name, _) in enumerate(model.named_parameters()):
        kept[number] = {key: moments[key][name].float().contiguous() for key in moments}
        kept[number]["step"] = torch.tensor(step)
    return {"state": kept}


def _by_name(values: list[Tensor], shapes: dict[str, torch.Size]) -> dict[str, Tensor]:
    """One tensor for each parameter, or all of them in one vector. ValueError if they are not that many numbers."""
    if len(values) == 1 and values[0].dim() == 1:
        values = list(values[0].split([shape.numel() for shape in shapes.values()]))
    if len(values) != len(shapes):
        raise ValueError(f"{len(values)} tensors for {len(shapes)} parameters")
    return {name: value.reshape(shape) for (name, shape), value in zip(shapes.items(), values)}

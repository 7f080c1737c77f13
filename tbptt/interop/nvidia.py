"""Checkpoints of NVIDIA's DeepLearningExamples: the original's parameters, of tied ones only the embedding's.

Its `same_length` lets a query see mem_len keys besides itself, the original's mem_len with itself: the same window is
mem_len + 1 here. (Of the memory of mem_len + 1 positions this brings, the oldest is never in any window.)
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from tbptt.data.config import Level
from tbptt.data.vocabulary import Vocabulary
from tbptt.errors import UserError
from tbptt.interop.foreign import Foreign, symbols_of, tensors
from tbptt.interop.pickles import load_torch, plain

AGAIN = "crit.shared_out_projs."  # the embedding's projections under a second name
KINDS = {"weights": "weight", "biases": "bias"}


def into_original(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`crit.out_layers_biases.0` is `crit.out_layers.0.bias` there."""
    return {
        re.sub(
            r"^crit\.out_layers_(weights|biases)\.(\d+)$", lambda m: f"crit.out_layers.{m[2]}.{KINDS[m[1]]}", name
        ): v
        for name, v in values.items()
    }


def read(path: Path) -> Foreign:
    """UserError if the file is damaged or lacks a part."""
    checkpoint = load_torch(path)
    needed = ("model_config", "model_state")
    if not isinstance(checkpoint, dict) or any(key not in checkpoint for key in needed):
        raise UserError(f"{path} is no checkpoint of NVIDIA's Transformer-XL: it must hold {' and '.join(needed)}")
    arguments, args = plain(checkpoint["model_config"]), plain(checkpoint.get("args"))
    if not isinstance(arguments, dict) or "n_token" not in arguments:
        raise UserError(f"{path} has a model_config without the constructor's arguments")
    notes = []
    if arguments.get("same_length"):
        wider = (arguments.get("mem_len") or 0) + 1
        notes.append(f"its same_length window is mem_len + 1 keys: model.mem_len is {wider} here, which is the same")
        arguments |= {"mem_len": wider}
    else:
        notes.append("its same_length window is mem_len + 1 keys: eval.same_length=true wants eval.mem_len one larger")
    optimizer = args.get("optim") if isinstance(args, dict) else None
    adam = checkpoint.get("optimizer_state") if optimizer == "adam" else None
    notes.append(
        "its learning-rate schedule, loss scale and place in the data are left behind"
        if adam
        else f"the state of its optimizer {optimizer}, its schedule, loss scale and place in the data are left behind"
    )
    weights = tensors(checkpoint["model_state"], path, "as model_state")
    symbols = symbols_of(checkpoint.get("vocab"))
    return Foreign(
        arguments,
        {name: value for name, value in weights.items() if not name.startswith(AGAIN)},
        into_original,
        Vocabulary(Level.word, symbols) if symbols else None,
        int(checkpoint.get("train_step") or 0),
        adam,
        notes,
    )

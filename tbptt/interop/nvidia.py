"""Reads checkpoints of NVIDIA's DeepLearningExamples: the original's parameters, without the copies of tied ones.

With `same_length`, a query there attends to mem_len keys besides its own; in the original, mem_len includes its own. So
the same window needs mem_len + 1 here. (The oldest of these mem_len + 1 memory positions is never in a window.)
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from tbptt.data.config import Level
from tbptt.data.vocabulary import Vocabulary
from tbptt.errors import UserError
from tbptt.interop.foreign import ForeignAdam, ForeignModel, as_state_dict, find_symbols
from tbptt.interop.pickles import load_torch, plain

SHARED_PROJECTIONS = "crit.shared_out_projs."  # the embedding's projections under a second name
SUFFIXES = {"weights": "weight", "biases": "bias"}


def into_original(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`crit.out_layers_biases.0` is `crit.out_layers.0.bias` in the original."""
    return {
        re.sub(
            r"^crit\.out_layers_(weights|biases)\.(\d+)$", lambda m: f"crit.out_layers.{m[2]}.{SUFFIXES[m[1]]}", name
        ): v
        for name, v in values.items()
    }


def read(path: Path) -> ForeignModel:
    """UserError if the file is damaged or incomplete."""
    checkpoint = load_torch(path)
    needed = ("model_config", "model_state")
    if not isinstance(checkpoint, dict) or any(key not in checkpoint for key in needed):
        raise UserError(f"{path} is not a checkpoint of NVIDIA's Transformer-XL: it must hold {' and '.join(needed)}")
    arguments, args = plain(checkpoint["model_config"]), plain(checkpoint.get("args"))
    if not isinstance(arguments, dict) or "n_token" not in arguments:
        raise UserError(f"{path} has no constructor arguments in its model_config: there is no n_token")
    notes = []
    if arguments.get("same_length"):
        wider = (arguments.get("mem_len") or 0) + 1
        notes.append(f"its same_length window is mem_len + 1 keys: model.mem_len={wider} here gives the same window")
        arguments |= {"mem_len": wider}
    else:
        notes.append(
            "its same_length window is mem_len + 1 keys: with eval.same_length=true, set eval.mem_len one larger"
        )
    optimizer = args.get("optim") if isinstance(args, dict) else None
    state = checkpoint.get("optimizer_state") if optimizer == "adam" else None
    adam = ForeignAdam(state, {"weight_decay": args.get("weight_decay")}) if optimizer == "adam" else None
    notes.append(
        "its learning-rate schedule, loss scale and position in the data are not imported"
        if state
        else f"the state of its optimizer {optimizer}, schedule, loss scale and position in the data are not imported"
    )
    weights = as_state_dict(checkpoint["model_state"], path, "as model_state")
    symbols = find_symbols(checkpoint.get("vocab"))
    return ForeignModel(
        arguments,
        {name: value for name, value in weights.items() if not name.startswith(SHARED_PROJECTIONS)},
        into_original,
        Vocabulary(Level.word, symbols) if symbols else None,
        int(checkpoint.get("train_step") or 0),
        adam,
        notes,
    )

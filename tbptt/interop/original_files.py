"""Files with the original's weights: npz, safetensors, or a state dict that torch.save wrote; and its arguments."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tbptt.errors import UserError
from tbptt.interop.foreign import Foreign, read_json, tensors
from tbptt.interop.hf import read_safetensors
from tbptt.interop.original import FIXED, OPTIONS
from tbptt.interop.pickles import load_torch, plain

# The cutoffs and tied projections that train.py has for --adaptive, by --dataset.
ADAPTIVE = {"wt103": ([20000, 40000, 200000], True), "lm1b": ([60000, 100000, 640000], False)}


def read(path: Path, config: Path | None) -> Foreign:
    """UserError for a pickled module, a damaged file, or one whose arguments are not known."""
    held = _load(path)
    parts = held if isinstance(held, dict) else {}
    named = next((key for key in ("model", "state_dict", "model_state_dict") if key in parts), None)
    weights = tensors(parts[named] if named else held, path, f"as '{named}'" if named else "in it")
    if config is not None:
        given = read_json(config, "import.config")
    else:
        given = plain(parts.get("args", parts.get("config")))
        if not isinstance(given, dict):
            raise UserError(
                f"{path} does not say how the model was built: give import.config=FILE, a JSON object with the "
                "original's arguments (n_token, n_layer, n_head, d_model, ...)"
            )
    optimizer = path.with_name("optimizer.pt")
    adam = load_torch(optimizer) if optimizer.is_file() and path.suffix not in (".npz", ".safetensors") else None
    notes = [] if adam else ["no optimizer's state came along (optimizer.pt, beside a state dict of torch.save)"]
    return Foreign(arguments_of(given), weights, adam=adam, notes=notes)


def _load(path: Path) -> Any:
    if path.suffix == ".npz":
        try:
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
                return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
        except (ValueError, OSError, EOFError, zipfile.BadZipFile, TypeError) as error:
            raise UserError(f"{path} cannot be read as npz ({error}): it is damaged or of another kind") from error
    return read_safetensors(path) if path.suffix == ".safetensors" else load_torch(path)


def arguments_of(given: dict[str, Any]) -> dict[str, Any]:
    """The constructor's arguments, given as such or as the `args` of train.py (which name a dataset)."""
    if "dataset" not in given:
        if "n_token" not in given:
            raise UserError("the original's arguments lack n_token, the number of entries of the vocabulary")
        return given
    cutoffs, tied = ADAPTIVE.get(given["dataset"], ([], False)) if given.get("adaptive") else ([], False)
    arguments = {key: value for key, value in given.items() if key in OPTIONS | FIXED.keys() | {"n_token"}}
    arguments |= {"cutoffs": cutoffs, "tie_projs": [False, *[tied] * len(cutoffs)]}
    arguments |= {"tie_weight": not given.get("not_tied", False)}
    if given.get("d_embed", -1) == -1:
        arguments["d_embed"] = given.get("d_model")
    return arguments_of(arguments)

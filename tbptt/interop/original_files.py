"""Reads files with the original's weights (npz, safetensors, or a state dict from torch.save) and its arguments."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tbptt.errors import UserError
from tbptt.interop.foreign import ForeignModel, as_state_dict, read_json
from tbptt.interop.hf import read_safetensors
from tbptt.interop.original import FIXED, OPTIONS
from tbptt.interop.pickles import load_torch, plain

# The cutoffs, and whether projections are tied, that train.py sets for --adaptive, by --dataset.
DATASET_SETTINGS = {"wt103": ([20000, 40000, 200000], True), "lm1b": ([60000, 100000, 640000], False)}


def read(path: Path, config: Path | None) -> ForeignModel:
    """UserError for a pickled module, a damaged file, or unknown constructor arguments."""
    saved = _load(path)
    entries = saved if isinstance(saved, dict) else {}
    key = next((key for key in ("model", "state_dict", "model_state_dict") if key in entries), None)
    weights = as_state_dict(entries[key] if key else saved, path, f"as '{key}'" if key else "in it")
    if config is not None:
        given = read_json(config, "import.config")
    else:
        given = plain(entries.get("args", entries.get("config")))
        if not isinstance(given, dict):
            raise UserError(
                f"{path} does not hold the model's settings: give import.config=FILE, a JSON object with the "
                "original's constructor arguments (n_token, n_layer, n_head, d_model, ...)"
            )
    optimizer = path.with_name("optimizer.pt")
    adam = load_torch(optimizer) if optimizer.is_file() and path.suffix not in (".npz", ".safetensors") else None
    notes = [] if adam else ["no optimizer state found (it is read from optimizer.pt beside a file of torch.save)"]
    return ForeignModel(constructor_arguments(given), weights, adam=adam, notes=notes)


def _load(path: Path) -> Any:
    if path.suffix == ".npz":
        try:
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
                return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
        except PermissionError:
            raise  # it is not damaged
        except (ValueError, OSError, EOFError, zipfile.BadZipFile, TypeError) as error:
            raise UserError(f"{path} cannot be read as npz ({error}): it is damaged or not an npz file") from error
    return read_safetensors(path) if path.suffix == ".safetensors" else load_torch(path)


def constructor_arguments(given: dict[str, Any]) -> dict[str, Any]:
    """The constructor arguments from `given`, which may instead be the `args` of train.py (they have a dataset)."""
    if "dataset" not in given:
        if "n_token" not in given:
            raise UserError("the original's arguments lack n_token, the vocabulary size")
        return given
    cutoffs, tied = DATASET_SETTINGS.get(given["dataset"], ([], False)) if given.get("adaptive") else ([], False)
    arguments = {key: value for key, value in given.items() if key in OPTIONS | FIXED.keys() | {"n_token"}}
    arguments |= {"cutoffs": cutoffs, "tie_projs": [False, *[tied] * len(cutoffs)]}
    arguments |= {"tie_weight": not given.get("not_tied", False)}
    if given.get("d_embed", -1) == -1:
        arguments["d_embed"] = given.get("d_model")
    return constructor_arguments(arguments)

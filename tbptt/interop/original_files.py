"""Reads files with the original's weights (npz, safetensors, or a state dict from torch.save) and its arguments."""

from __future__ import annotations

import ast
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tbptt.errors import UserError
from tbptt.interop.foreign import WHOLE, ForeignAdam, ForeignModel, as_state_dict, read_json
from tbptt.interop.hf_files import read_safetensors
from tbptt.interop.original import FIXED, OPTIONS
from tbptt.interop.pickled_modules import LOG, OPTIMIZER
from tbptt.interop.pickles import load_torch, plain

# The cutoffs, and whether projections are tied, that train.py sets for --adaptive, by --dataset.
DATASET_SETTINGS = {"wt103": ([20000, 40000, 200000], True), "lm1b": ([60000, 100000, 640000], False)}
RULER, LOGGED_ARGUMENT = re.compile(r"={10,}\s*"), re.compile(r" {4}- (\w+) : (.*)")  # lines of log.txt


def read(path: Path, config: Path | None) -> ForeignModel:
    """UserError for a pickled module, a damaged file, or unknown constructor arguments."""
    saved = _load(path)
    entries = saved if isinstance(saved, dict) else {}
    key = next((key for key in ("model", "state_dict", "model_state_dict") if key in entries), None)
    weights = as_state_dict(entries[key] if key else saved, path, f"as '{key}'" if key else WHOLE)
    given = _arguments(path, entries) if config is None else _read_arguments(config)
    adam, notes = _optimizer(path, given.get("optim"))
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


def _arguments(path: Path, entries: dict[str, Any]) -> dict[str, Any]:
    """The arguments in the file itself, or else in the log.txt beside it."""
    given = plain(entries.get("args", entries.get("config")))
    if isinstance(given, dict):
        return given
    log = path.with_name(LOG)
    if log.is_file() and (logged := logged_arguments(_read_text(log))):
        return logged
    raise UserError(
        f"{path} does not hold the model's settings, nor does a {LOG} of train.py beside it: give import.config=FILE, "
        f"that {LOG} or a JSON object with the original's constructor arguments (n_token, n_layer, d_model, ...)"
    )


def _read_arguments(config: Path) -> dict[str, Any]:
    """The arguments in import.config, a JSON file or a log.txt."""
    if logged := logged_arguments(_read_text(config, "import.config=")):
        return logged
    try:
        return read_json(config, "import.config")
    except UserError as error:
        raise UserError(f"{error}; it has no arguments as in a {LOG} of train.py either") from error


def _read_text(path: Path, key: str = "") -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except PermissionError:
        raise  # the file may be right
    except OSError as error:
        raise UserError(f"{key}{path} cannot be read ({error.strerror})") from error


def logged_arguments(text: str) -> dict[str, Any]:
    """The arguments that train.py writes to its log.txt, between two rulers: those of its last start. {} if none."""
    found: dict[str, Any] = {}
    block: dict[str, Any] | None = None  # the arguments since a ruler; None after any other line
    for line in text.splitlines():
        if RULER.fullmatch(line):
            found, block = block or found, {}
        elif block is not None and (argument := LOGGED_ARGUMENT.fullmatch(line)):
            block[argument[1]] = _value(argument[2])
        else:
            block = None
    return found


def _value(text: str) -> Any:
    """A number, True, False, None or a list, as Python prints it; other text as it is."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


def _optimizer(path: Path, name: str | None) -> tuple[ForeignAdam | None, list[str]]:
    """The Adam in optimizer.pt beside a file of torch.save; in others, parameters do not have the optimizer's order."""
    optimizer = path.with_name(OPTIMIZER)
    if not optimizer.is_file() or path.suffix in (".npz", ".safetensors"):
        return None, [f"no optimizer state found (it is read from {OPTIMIZER} beside a file of torch.save)"]
    if name not in (None, "adam"):
        return None, [f"the state of its optimizer {name} is not imported"]
    note = "torch before 1.3, and so the authors' runs, added Adam's eps before the bias correction, Adam here after it"
    return ForeignAdam(load_torch(optimizer)), [note]


def constructor_arguments(given: dict[str, Any]) -> dict[str, Any]:
    """The constructor arguments from `given`, which may instead be the `args` of train.py (they have a dataset)."""
    if "dataset" not in given:
        if "n_token" not in given:
            raise UserError("the original's arguments lack n_token, the vocabulary size")
        return given
    dataset, adaptive = str(given["dataset"]), bool(given.get("adaptive"))
    if adaptive and dataset not in DATASET_SETTINGS:
        raise UserError(
            f"the original's arguments have dataset={dataset} and adaptive, but no cutoffs: train.py has them only for "
            f"{' and '.join(DATASET_SETTINGS)}; give import.config=FILE, a JSON object with the constructor's arguments"
        )
    cutoffs, tied = DATASET_SETTINGS[dataset] if adaptive else ([], False)
    arguments = {key: value for key, value in given.items() if key in OPTIONS | FIXED.keys() | {"n_token"}}
    arguments |= {"cutoffs": cutoffs, "tie_projs": [False, *[tied] * len(cutoffs)]}
    arguments |= {"tie_weight": not given.get("not_tied", False)}
    if given.get("d_embed", -1) == -1:
        arguments["d_embed"] = given.get("d_model")
    return constructor_arguments(arguments)

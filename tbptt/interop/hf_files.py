"""The files of a directory that transformers' save_pretrained writes: settings, weights, vocabulary."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from tbptt.data import language, subwords
from tbptt.data.vocabulary import Vocabulary
from tbptt.errors import UserError
from tbptt.files import save_weights
from tbptt.interop.foreign import WHOLE, as_state_dict, read_json, read_vocabulary
from tbptt.interop.pickles import load_torch

CONFIG, WEIGHTS, PICKLED_WEIGHTS = "config.json", "model.safetensors", "pytorch_model.bin"
PICKLED = (".bin", ".pt", ".pth")  # what torch.save writes is called


def read_config(folder: Path) -> dict[str, Any]:
    """UserError if it is not such a directory."""
    if not folder.is_dir() or not (folder / CONFIG).is_file():
        raise UserError(f"import.path={folder} must be a directory with {CONFIG} and {WEIGHTS}")
    return read_json(folder / CONFIG, "import.path")


def find_language(folder: Path, names: Sequence[str] = ()) -> tuple[Vocabulary | None, Path | None]:
    """The vocabulary, from vocabulary.json of task=export or a file with one of `names`; and the tokenizer.json."""
    found = next((folder / name for name in (*names, language.FILE) if (folder / name).is_file()), None)
    tokenizer = folder / subwords.FILE
    return None if found is None else read_vocabulary(found), tokenizer if tokenizer.is_file() else None


def read_weights(folder: Path) -> dict[str, Tensor]:
    """All weights, also of several files, or of the only file of weights. UserError if one is missing or damaged."""
    for name in (WEIGHTS, PICKLED_WEIGHTS):
        if (folder / name).is_file():
            return _read(folder / name)
        if (index := folder / f"{name}.index.json").is_file():
            return {key: value for shard in _shards(index) for key, value in _read(shard).items()}
    others = sorted(path for path in folder.iterdir() if path.suffix in (".safetensors", *PICKLED))
    if len(others) == 1:
        return _read(others[0])
    several = f", and which of {', '.join(path.name for path in others)} is meant is not known" if others else ""
    raise UserError(f"import.path={folder} has neither {WEIGHTS} nor {PICKLED_WEIGHTS}{several}")


def _shards(index: Path) -> list[Path]:
    """The files over which save_pretrained has spread the weights. UserError if one is missing."""
    names = read_json(index, "import.path").get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise UserError(f"import.path={index} is no index of weights: it must have a weight_map of names to files")
    shards = [index.with_name(Path(name).name) for name in sorted(set(names.values()))]
    if missing := [shard.name for shard in shards if not shard.is_file()]:
        raise UserError(f"import.path={index.parent} lacks {', '.join(missing)}, which {index.name} lists")
    return shards


def _read(path: Path) -> dict[str, Tensor]:
    return as_state_dict(load_torch(path), path, WHOLE) if path.suffix in PICKLED else read_safetensors(path)


def read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        path.open("rb").close()  # of a file that may not be read, the library says that it does not exist
        return load_file(path)
    except PermissionError:
        raise  # it is not damaged
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} cannot be read ({error}): it is damaged or not a safetensors file") from error


def write_directory(folder: Path, settings: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
    (folder / CONFIG).write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    contiguous = {name: value.contiguous() for name, value in weights.items()}
    save_weights(contiguous, folder / WEIGHTS, {"format": "pt"})

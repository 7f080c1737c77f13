"""Hugging Face's TransfoXLLMHeadModel: the original's parameters under a prefix, with the clusters in reverse order.

Tail cluster i is column cutoffs[0]+i-1 of the head there, and column -i in the original, so the rows of cluster_weight
and cluster_bias are reversed. Safetensors files hold only one of several tied weights.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from tbptt.data.vocabulary import Vocabulary
from tbptt.errors import UserError
from tbptt.files import save_weights
from tbptt.interop import original
from tbptt.interop.foreign import WHOLE, ForeignModel, as_state_dict, cutoffs_of, read_json, read_vocabulary
from tbptt.interop.pickles import load_torch
from tbptt.models.transformer_xl import TransformerXL, TransformerXLConfig

PREFIX = "transformer."
CLUSTERS = ("crit.cluster_weight", "crit.cluster_bias")
VOCABULARIES = ("vocab.txt", "vocab.pkl", "vocab.bin", "vocabulary.json")  # the last is written by task=export
SHARED_SETTINGS = ("n_layer", "d_model", "n_head", "d_head", "d_inner", "d_embed", "div_val", "cutoffs", "dropout",
                   "dropatt", "pre_lnorm", "untie_r", "mem_len", "clamp_len", "same_length")  # fmt: skip
# For keys that config.json omits: the defaults of configuration_transfo_xl.py.
DEFAULTS: dict[str, Any] = {
    "n_layer": 18, "d_model": 1024, "n_head": 16, "d_head": 64, "d_inner": 4096, "d_embed": 1024, "div_val": 4,
    "cutoffs": [20000, 40000, 200000], "dropout": 0.1, "dropatt": 0.0, "pre_lnorm": False, "untie_r": True,
    "mem_len": 1600, "clamp_len": 1000, "same_length": True, "vocab_size": 267735,
}  # fmt: skip
FIXED = {"attn_type": 0, "layer_norm_epsilon": 1e-5}


def into_original(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(PREFIX): value.flip(0) if name in CLUSTERS else value for name, value in values.items()}


def read(path: Path) -> ForeignModel:
    """Read a directory that save_pretrained wrote. UserError if a file is missing, damaged or of another model."""
    if not path.is_dir() or not (path / "config.json").is_file():
        raise UserError(f"import.path={path} must be a directory with config.json and model.safetensors")
    config = read_json(path / "config.json", "import.path")
    if config.get("model_type", "transfo-xl") != "transfo-xl":
        raise UserError(f"{path}/config.json has model_type={config['model_type']}, which must be transfo-xl")
    for key, value in FIXED.items():
        if config.get(key, value) != value:
            raise UserError(f"{path}/config.json has {key}={config[key]}, which must be {value}")
    found = next((path / name for name in VOCABULARIES if (path / name).is_file()), None)
    words = read_vocabulary(found) if found else None
    notes = [
        "HF starts from a memory of zero vectors that are attended to: eval.initial_memory=zeros gives the same losses"
    ]
    if "tgt_len" not in config:
        notes.append("config.json has no segment length: model.tgt_len is 128; set eval.tgt_len for another")
    return ForeignModel(_arguments(config), _weights(path), into_original, words, notes=notes)


def _arguments(config: dict[str, Any]) -> dict[str, Any]:
    config = DEFAULTS | config
    n_tails = len(cutoffs_of(config))
    tied = [False, *[bool(config.get("proj_share_all_but_first", True))] * n_tails]
    arguments = {key: config[key] for key in SHARED_SETTINGS} | {"n_token": config["vocab_size"]}
    arguments |= {"tie_projs": config.get("tie_projs", tied), "tie_weight": config.get("tie_word_embeddings", True)}
    return arguments | ({"tgt_len": config["tgt_len"]} if "tgt_len" in config else {})


def _weights(path: Path) -> dict[str, Tensor]:
    for name, load in (("model.safetensors", read_safetensors), ("pytorch_model.bin", _read_bin)):
        if (path / name).is_file():
            return load(path / name)
        if (index := path / f"{name}.index.json").is_file():
            return {key: value for shard in _shards(index) for key, value in load(shard).items()}
    raise UserError(f"import.path={path} has neither model.safetensors nor pytorch_model.bin")


def _shards(index: Path) -> list[Path]:
    """The files over which save_pretrained has spread the weights. UserError if one is missing."""
    names = read_json(index, "import.path").get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise UserError(f"import.path={index} is no index of weights: it must have a weight_map of names to files")
    shards = [index.with_name(Path(name).name) for name in sorted(set(names.values()))]
    if missing := [shard.name for shard in shards if not shard.is_file()]:
        raise UserError(f"import.path={index.parent} lacks {', '.join(missing)}, which {index.name} lists")
    return shards


def _read_bin(path: Path) -> dict[str, Tensor]:
    return as_state_dict(load_torch(path), path, WHOLE)


def read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        path.open("rb").close()  # of a file that may not be read, the library says that it does not exist
        return load_file(path)
    except PermissionError:
        raise  # it is not damaged
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} cannot be read ({error}): it is damaged or not a safetensors file") from error


def check_export(config: TransformerXLConfig) -> None:
    """UserError if TransfoXLLMHeadModel cannot represent the model."""
    tie_projs = original.tied_projections(config)
    has_projections = config.div_val > 1 or config.d_embed not in (None, config.d_model)
    if has_projections and (tie_projs[0] or len(set(tie_projs[1:])) > 1):
        raise UserError(
            f"export.format=hf cannot represent model.tie_projs={tie_projs}: all but the first must be tied, or none"
        )


def write(model: TransformerXL, config: TransformerXLConfig, vocabulary: Vocabulary | None, folder: Path) -> None:
    """Write a directory that `from_pretrained` of transformers 4 reads, without the tied weights."""
    tie_projs = original.tied_projections(config)
    tied = original.tied_names(model)
    weights = {
        name if name.startswith("crit.") else PREFIX + name: value.flip(0) if name in CLUSTERS else value
        for name, value in original.state_dict(model).items()
        if name not in tied
    }
    settings = {key: getattr(config, key) for key in SHARED_SETTINGS}
    settings |= {"d_embed": config.d_embed or config.d_model, "cutoffs": list(config.cutoffs)}
    settings |= {"vocab_size": model.embedding.bounds[-1][1], "tie_projs": tie_projs, "tgt_len": config.tgt_len}
    settings |= {"proj_share_all_but_first": any(tie_projs), "tie_word_embeddings": config.tie_weight}
    settings |= FIXED | {"adaptive": True, "sample_softmax": -1, "eos_token_id": 0}
    settings |= {"architectures": ["TransfoXLLMHeadModel"], "model_type": "transfo-xl", "dtype": "float32"}
    (folder / "config.json").write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    weights = {name: value.contiguous() for name, value in weights.items()}
    save_weights(weights, folder / "model.safetensors", {"format": "pt"})
    if vocabulary is not None:
        (folder / "vocab.txt").write_text("".join(f"{symbol}\n" for symbol in vocabulary.symbols), encoding="utf-8")

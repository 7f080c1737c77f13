"""Hugging Face's TransfoXLLMHeadModel: the original's parameters under a prefix, with the clusters in reverse order.

Tail cluster i is column cutoffs[0]+i-1 of the head there, and column -i in the original, so the rows of cluster_weight
and cluster_bias are reversed. Safetensors files hold only one of several tied weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from tbptt.data.vocabulary import Vocabulary
from tbptt.errors import UserError
from tbptt.interop import original
from tbptt.interop.foreign import ForeignModel, cutoffs_of
from tbptt.interop.hf_files import find_language, read_weights, write_directory
from tbptt.models.transformer_xl import TransformerXL, TransformerXLConfig

MODEL_TYPE = "transfo-xl"
PREFIX = "transformer."
CLUSTERS = ("crit.cluster_weight", "crit.cluster_bias")
VOCABULARIES = ("vocab.txt", "vocab.pkl", "vocab.bin")
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


def read(path: Path, config: Mapping[str, Any]) -> ForeignModel:
    """Read a directory with this config.json. UserError if a file is missing, damaged or of another model."""
    for key, value in FIXED.items():
        if config.get(key, value) != value:
            raise UserError(f"{path}/config.json has {key}={config[key]}, which must be {value}")
    words, tokenizer = find_language(path, VOCABULARIES)
    notes = [
        "HF starts from a memory of zero vectors that are attended to: eval.initial_memory=zeros gives the same losses"
    ]
    if "tgt_len" not in config:
        notes.append("config.json has no segment length: model.tgt_len is 128; set eval.tgt_len for another")
    weights = read_weights(path)
    return ForeignModel(_arguments(config), weights, into_original, words, notes=notes, tokenizer=tokenizer)


def _arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    config = DEFAULTS | dict(config)
    n_tails = len(cutoffs_of(config))
    tied = [False, *[bool(config.get("proj_share_all_but_first", True))] * n_tails]
    arguments = {key: config[key] for key in SHARED_SETTINGS} | {"n_token": config["vocab_size"]}
    arguments |= {"tie_projs": config.get("tie_projs", tied), "tie_weight": config.get("tie_word_embeddings", True)}
    return arguments | ({"tgt_len": config["tgt_len"]} if "tgt_len" in config else {})


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
    settings |= {"architectures": ["TransfoXLLMHeadModel"], "model_type": MODEL_TYPE, "dtype": "float32"}
    write_directory(folder, settings, weights)
    if vocabulary is not None:
        (folder / "vocab.txt").write_text("".join(f"{symbol}\n" for symbol in vocabulary.symbols), encoding="utf-8")

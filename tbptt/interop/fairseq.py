"""Reads checkpoints of fairseq's truncated-BPTT example: a dict with HF's model under a prefix and the run's settings.

The settings are a Namespace (`args`), or an OmegaConf object or plain dicts (`cfg`). Unpickling them runs no code.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from tbptt.data.fairseq import read_dictionary
from tbptt.errors import UserError
from tbptt.interop import transfo_xl
from tbptt.interop.foreign import ForeignAdam, ForeignModel, as_state_dict, cutoffs_of
from tbptt.interop.pickles import Placeholder, load_torch, plain

PREFIX = "decoder.model."
SIZES = ("n_layer", "d_model", "n_head", "d_head", "d_inner", "div_val")
CONTEXT = ("mem_len", "clamp_len", "same_length", "dropout", "dropatt")


def into_original(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return transfo_xl.into_original({name.removeprefix(PREFIX): value for name, value in values.items()})


def read(path: Path, vocabulary: Path | None) -> ForeignModel:
    """UserError if the file is damaged or not of that example. The vocabulary defaults to dict.txt beside it."""
    checkpoint = load_torch(path)
    if not isinstance(checkpoint, dict) or "model" not in checkpoint:
        raise UserError(f"{path} is not a fairseq checkpoint: it has no 'model'")
    weights = as_state_dict(checkpoint["model"], path, "as 'model'")
    if not all(name.startswith(PREFIX) for name in weights):
        raise UserError(
            f"{path} is not of fairseq's truncated-BPTT example: its parameter names must begin with {PREFIX}"
        )
    settings = _settings(checkpoint, path)
    dictionary = vocabulary or path.with_name("dict.txt")
    words = read_dictionary(dictionary) if dictionary.is_file() else None
    tables = [v for name, v in weights.items() if name.startswith(f"{PREFIX}transformer.word_emb.emb_layers.")]
    n_token = sum(len(table) for table in tables)
    arguments = _arguments(settings, n_token, path)
    adam, notes = _optimizer(checkpoint, settings)
    return ForeignModel(arguments, weights, into_original, words, _updates(checkpoint), adam, notes)


def _settings(checkpoint: dict[str, Any], path: Path) -> dict[str, Any]:
    """All settings in one flat dict: args, or the groups `task`, `model` and `optimizer` of cfg merged."""
    saved = next((checkpoint[key] for key in ("cfg", "args") if checkpoint.get(key) is not None), None)
    settings = plain(saved)
    if not isinstance(settings, dict) or not settings:
        kind = saved.origin if isinstance(saved, Placeholder) else type(saved).__name__
        raise UserError(f"{path} has neither cfg nor args with readable settings (found a {kind})")
    groups = [settings.get(key) for key in ("task", "model", "optimizer")]
    flat = {key: value for group in groups if isinstance(group, dict) for key, value in group.items()}
    return settings | flat | {"optimizer": flat.get("_name", settings.get("optimizer"))}


def _arguments(settings: dict[str, Any], n_token: int, path: Path) -> dict[str, Any]:
    missing = [key for key in (*SIZES, *CONTEXT, "cutoffs") if key not in settings]
    if missing:
        raise UserError(f"{path} lacks the settings {', '.join(missing)} of fairseq's transformer_xl")
    arguments = {key: settings[key] for key in (*SIZES, *CONTEXT)}
    cutoffs = [cutoff for cutoff in cutoffs_of(settings) if cutoff < n_token]  # as in the example
    arguments |= {"n_token": n_token, "d_embed": settings["d_model"], "cutoffs": cutoffs, "untie_r": True}
    arguments |= {"tie_projs": [False, *[True] * len(cutoffs)], "mem_len": settings["mem_len"] or 0}
    return arguments | ({"tgt_len": settings["tokens_per_sample"]} if "tokens_per_sample" in settings else {})


def _optimizer(checkpoint: dict[str, Any], settings: dict[str, Any]) -> tuple[ForeignAdam | None, list[str]]:
    notes = [
        "fairseq starts from a memory of zero vectors that are attended to (eval.initial_memory=zeros), skips the last "
        "target of every segment, and never empties its training memory"
    ]
    state = checkpoint.get("last_optimizer_state")
    notes.append(
        "the checkpoint has no optimizer state"
        if state is None
        else "its learning-rate schedule, loss scale and position in the data are not imported"
    )
    if settings.get("optimizer") != "adam":
        return None, [*notes, f"the state of its optimizer {settings.get('optimizer')} is not imported"]
    notes.append("fairseq adds Adam's eps before the bias correction, Adam here after it")
    stated = {"betas": settings.get("adam_betas"), "eps": settings.get("adam_eps")}
    return ForeignAdam(state, stated | {"weight_decay": settings.get("weight_decay")}, decoupled=True), notes


def _updates(checkpoint: dict[str, Any]) -> int:
    history = checkpoint.get("optimizer_history") or [{}]
    return int(history[-1].get("num_updates", 0))

"""Checks shared by the configurations of several models. Each raises a UserError that names the key."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from tbptt.errors import UserError


def check_at_least(config: Any, least: int, *keys: str) -> None:
    for key in keys:
        if getattr(config, key) < least:
            raise UserError(f"model.{key}={getattr(config, key)} must be {least} or more")


def check_probabilities(config: Any, *keys: str, group: str = "model.") -> None:
    """`group` is the prefix of the keys in the message."""
    for key in keys:
        if not 0 <= getattr(config, key) < 1:
            raise UserError(f"{group}{key}={getattr(config, key)} must be a probability, at least 0 and below 1")


def check_context(group: str, mem_len: int, clamp_len: int, same_length: bool) -> None:
    """UserError for an invalid context; `group` is the prefix of the keys in the message, such as "model."."""
    if clamp_len < 1 and clamp_len != -1:
        raise UserError(f"{group}clamp_len={clamp_len} must be 1 or more, or -1 for no limit")
    if mem_len < 0:
        raise UserError(f"{group}mem_len={mem_len} must be 0 or more")
    if same_length and mem_len == 0:
        raise UserError(
            f"{group}mem_len=0 must be 1 or more with {group}same_length=true, "
            "which lets every query see exactly mem_len keys, itself included"
        )


def check_vocabulary_settings(config: Any, vocab_size: int | None) -> None:
    """Check the settings of adaptive embedding and softmax: d_embed, div_val, cutoffs and tie_projs."""
    cutoffs = list(config.cutoffs)
    edges = [0, *cutoffs]
    if any(low >= high for low, high in pairwise(edges)):
        raise UserError(f"model.cutoffs={cutoffs} must be positive and ascending, such as [20000, 40000, 200000]")
    if vocab_size is not None and cutoffs and cutoffs[-1] >= vocab_size:
        raise UserError(
            f"model.cutoffs={cutoffs} must be below the vocabulary size, {vocab_size}; "
            "for a small vocabulary use model.cutoffs=[]"
        )
    if config.div_val < 1:
        raise UserError(f"model.div_val={config.div_val} must be 1 or more")
    d_embed = config.d_model if config.d_embed is None else config.d_embed
    if d_embed < 1:
        raise UserError(f"model.d_embed={d_embed} must be 1 or more")
    if d_embed // config.div_val ** len(cutoffs) < 1:
        raise UserError(
            f"model.div_val={config.div_val} gives the last of {len(cutoffs) + 1} clusters an embedding size below 1 "
            f"(model.d_embed={d_embed}): use a smaller div_val or fewer cutoffs"
        )
    if config.tie_projs is not None and len(config.tie_projs) != len(cutoffs) + 1:
        raise UserError(
            f"model.tie_projs has {len(config.tie_projs)} entries, but must have {len(cutoffs) + 1}: "
            f"one for each cluster of model.cutoffs={cutoffs}"
        )

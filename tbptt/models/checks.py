"""Checks shared by the configurations of several models. Each raises a UserError that names the key."""

from __future__ import annotations

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

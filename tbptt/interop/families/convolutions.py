"""Convolutions of queries, keys and values that are one here, and three in a file."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from tbptt.errors import UserError

PART = re.compile(r"(.*\.)([qkv])_conv1d\.weight")
WHOLE = "conv1d.weight"


def joined(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Joins q_conv1d, k_conv1d and v_conv1d to conv1d, whatever their widths. UserError if one is missing."""
    whole, parts = dict[str, Tensor](), dict[str, dict[str, Tensor]]()
    for name, value in weights.items():
        if part := PART.fullmatch(name):
            parts.setdefault(part[1], {})[part[2]] = value
        else:
            whole[name] = value
    for prefix, each in parts.items():
        if missing := [f"{prefix}{part}_conv1d.weight" for part in "qkv" if part not in each]:
            raise UserError(f"the weights lack '{missing[0]}', which the configuration requires")
        if len({part.shape[1:] for part in each.values()}) > 1:
            raise UserError(f"the shapes of '{prefix}q_conv1d.weight', k_conv1d and v_conv1d do not match")
        whole[prefix + WHOLE] = torch.cat([each[part] for part in "qkv"])
    return whole


def cut(weights: Mapping[str, Tensor], three: Callable[[str, Tensor], Sequence[Tensor]]) -> dict[str, Tensor]:
    """The inverse of `joined`: `three` gives the parts of the weight of the mixer whose names begin with a prefix."""
    parts = dict[str, Tensor]()
    for name, value in weights.items():
        prefix, joined, _ = name.partition(WHOLE)
        if joined:
            parts |= {f"{prefix}{part}_conv1d.weight": each for part, each in zip("qkv", three(prefix, value))}
        else:
            parts[name] = value
    return parts

"""What a model's parameters are to an optimizer: matrices of hidden layers, tables of the vocabulary, and the rest.

A module names what cannot be told from shapes, with names relative to it: `NOT_MATRICES`, parameters of two or more
axes that are biases, norms or convolutions, and `PROJECTIONS`, how a parameter is split that holds several matrices.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

Split = Callable[[Tensor], Sequence[Tensor]]  # a parameter, or its gradient -> views of its matrices, each of two axes


@dataclass
class ParameterGroups:
    """All parameters of a model, each in one group, in the order of the model."""

    matrices: dict[nn.Parameter, Split] = field(default_factory=dict)  # of hidden layers
    vocabulary: list[nn.Parameter] = field(default_factory=list)  # tables and projections of embedding and softmax
    rest: list[nn.Parameter] = field(default_factory=list)  # norms, biases, decays, convolutions


def group_parameters(model: nn.Module, vocabulary: Sequence[str] = ("embedding", "softmax")) -> ParameterGroups:
    """`vocabulary` are the names of the model's modules for tokens."""
    groups, excluded = ParameterGroups(), set[str]()
    splits: dict[str, Split] = {}
    for path, module in model.named_modules():
        prefix = f"{path}." if path else ""
        excluded |= {prefix + name for name in getattr(module, "NOT_MATRICES", ())}
        splits |= {prefix + name: split for name, split in _projections(module).items()}
    for name, parameter in model.named_parameters():
        if parameter.dim() < 2 or name in excluded:
            groups.rest.append(parameter)
        elif name.split(".")[0] in vocabulary:
            groups.vocabulary.append(parameter)
        else:
            groups.matrices[parameter] = splits.get(name, _by_axes)
    return groups


def _projections(module: nn.Module) -> dict[str, Split]:
    """How the parameters of a module are split that hold several matrices."""
    named: dict[str, Any] = dict(getattr(module, "PROJECTIONS", {}))
    if isinstance(module, nn.RNNBase):  # torch stacks the matrices of the gates
        weights = {name: weight for name, weight in module.named_parameters() if weight.dim() == 2}
        named |= {name: partial(torch.chunk, chunks=len(w) // module.hidden_size) for name, w in weights.items()}
    return named


def _by_axes(x: Tensor) -> Sequence[Tensor]:
    """The last two axes are those of a matrix."""
    return [x] if x.dim() == 2 else [matrix for part in x.unbind(0) for matrix in _by_axes(part)]

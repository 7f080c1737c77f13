"""Where parameters lie in another system's tensors: values of either side, arranged as the other has them.

A layout maps each of its tensors to the parameters here whose rows it holds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from tbptt.errors import UserError


@dataclass(frozen=True)
class Stored:
    """A tensor with the rows of all `parameters`: in `blocks` blocks, each with its share of the rows of every one."""

    parameters: tuple[str, ...]
    blocks: int = 1
    shape: tuple[int, ...] | None = None  # of the tensor, -1 for what is left, where its axes are not those here

    def join(self, values: Mapping[str, Tensor]) -> Tensor:
        parts = [values[name] for name in self.parameters]
        joined = torch.cat([part.unflatten(0, (self.blocks, -1)) for part in parts], dim=1).flatten(0, 1)
        return joined if self.shape is None else joined.reshape(self.shape)

    def joined_shape(self, shapes: Mapping[str, torch.Size]) -> torch.Size:
        own = [shapes[name] for name in self.parameters]
        joined = torch.Size((sum(shape[0] for shape in own), *own[0][1:]))
        return joined if self.shape is None else torch.empty(joined, device="meta").reshape(self.shape).shape

    def split(self, tensor: Tensor, shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
        """The inverse of `join`, of a tensor with the shape that `join` gives."""
        own = [shapes[name] for name in self.parameters]
        blocks = tensor.reshape(self.blocks, -1, *own[0][1:])
        parts = blocks.split([shape[0] // self.blocks for shape in own], dim=1)
        return {name: part.reshape(shape) for name, part, shape in zip(self.parameters, parts, own)}


Layout = dict[str, Stored]


def one_each(names: Mapping[str, str], here: str = "", there: str = "") -> Layout:
    """Of tensors that are one parameter each, from its name to theirs; `here` and `there` come before every name."""
    return {there + theirs: Stored((here + ours,)) for ours, theirs in names.items()}


def moved(layout: Layout, here: str, there: str) -> Layout:
    """A part's layout in a whole, where `here` and `there` come before all of its names."""
    return {
        there + name: Stored(tuple(here + each for each in stored.parameters), stored.blocks, stored.shape)
        for name, stored in layout.items()
    }


def from_layout(values: Mapping[str, Tensor], layout: Layout, shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """Values under their names (weights, or gradients of them) as those of parameters with `shapes`.

    UserError if one is missing, unexpected or of another shape.
    """
    if unknown := sorted(values.keys() - layout.keys()):
        raise UserError(f"the weights hold {_few(unknown)}, which do not exist in this configuration")
    if missing := sorted(layout.keys() - values.keys()):
        raise UserError(f"the weights lack {_few(missing)}, which the configuration requires")
    ours: dict[str, Tensor] = {}
    for name, stored in layout.items():
        if values[name].shape != (shape := stored.joined_shape(shapes)):
            raise UserError(
                f"'{name}' has the shape {tuple(values[name].shape)}, but the configuration requires {tuple(shape)}"
            )
        ours |= stored.split(values[name], shapes)
    assert ours.keys() == shapes.keys(), ours.keys() ^ shapes.keys()
    return ours


def to_layout(values: Mapping[str, Tensor], layout: Layout) -> dict[str, Tensor]:
    """The inverse of `from_layout`."""
    return {name: stored.join(values) for name, stored in layout.items()}


def _few(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{', '.join(repr(name) for name in names[:3])}{more}"

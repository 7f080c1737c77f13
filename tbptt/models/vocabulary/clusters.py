"""Token ids with the positions of every vocabulary cluster, computed on the host before the copy to the device.

The number of tokens of a cluster determines tensor shapes. If it were computed on the GPU, the host would have to wait
for all work queued on the GPU.

Shapes: ids of any shape, N of them when flattened; n of them selected for one cluster.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

Bounds = list[tuple[int, int]]  # the half-open range of token ids of every cluster


def cluster_bounds(vocab_size: int, cutoffs: Sequence[int]) -> Bounds:
    edges = [0, *cutoffs, vocab_size]
    return list(pairwise(edges))


class ClusteredIds(NamedTuple):
    """Token ids, and the positions of every cluster in the flattened ids: a pytree of tensors, as states are.

    The positions of a cluster may be padded with positions of other clusters, so that fewer different sizes occur.
    Results at padding positions must be masked (`zero_outside`). The positions of a cluster are distinct.
    """

    ids: Tensor
    positions: tuple[Tensor, ...]  # (n,) int64 for every cluster; empty if there is only one cluster

    @classmethod
    def from_ids(cls, ids: Tensor, bounds: Bounds, multiple: int = 1) -> ClusteredIds:
        """Pad the number of positions of every cluster to a multiple of `multiple`, as far as N allows."""
        if len(bounds) == 1:
            return cls(ids, ())
        flat_N, positions = ids.flatten(), []
        for low, high in bounds:
            inside_N = (flat_N >= low) & (flat_N < high)
            index = inside_N.nonzero()[:, 0]
            if padding := -len(index) % multiple:
                index = torch.cat([index, (~inside_N).nonzero()[:padding, 0]])
            positions.append(index)
        return cls(ids, tuple(positions))

    @classmethod
    def ensure(cls, ids: Tensor | ClusteredIds, bounds: Bounds) -> ClusteredIds:
        """Return ClusteredIds unchanged, and cluster plain ids without padding."""
        return ids if isinstance(ids, ClusteredIds) else cls.from_ids(ids, bounds)

    @property
    def shape(self) -> torch.Size:
        return self.ids.shape

    def flatten(self) -> ClusteredIds:
        return ClusteredIds(self.ids.flatten(), self.positions)

    def select_cluster(self, cluster: int, bounds: Bounds) -> tuple[Tensor, Tensor, Tensor | None]:
        """Positions, ids relative to the cluster, and mask of a cluster, each (n,), for flattened ids (N,).

        The mask is False at padding positions, where the relative id is 0. It is None if there is no padding.
        """
        (low, high), index = bounds[cluster], self.positions[cluster]
        local_ids = self.ids.index_select(0, index) - low
        if sum(map(len, self.positions)) == len(self.ids):
            return index, local_ids, None
        inside = (local_ids >= 0) & (local_ids < high - low)
        return index, local_ids.where(inside, 0), inside


def zero_outside(x: Tensor, inside: Tensor | None) -> Tensor:
    """Zero the rows of x (n, ...) where the mask `inside` (n,) is False; None keeps all rows."""
    return x if inside is None else x.where(inside.view(-1, *(1,) * (x.dim() - 1)), 0)

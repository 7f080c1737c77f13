"""Word ids sorted by the clusters of their vocabulary, best before they leave the host.

How many words of a segment a cluster has is a number that shapes depend on: to find it on a GPU, the host would have to
wait for all that the GPU still has to do.

Shapes: ids of any shape, N of them when flattened; n of them taken for one cluster.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

Bounds = list[tuple[int, int]]  # the [first, last + 1) word ids of every cluster


def cluster_bounds(vocab_size: int, cutoffs: Sequence[int]) -> Bounds:
    edges = [0, *cutoffs, vocab_size]
    return list(pairwise(edges))


class ClusteredIds(NamedTuple):
    """Word ids, and for every cluster where in the flattened ids its words are: a pytree of tensors, as states are.

    So that numbers of words take few values, some positions of other words may follow those of the cluster: whoever
    computes with them leaves their results out. No position is there twice.
    """

    ids: Tensor
    positions: tuple[Tensor, ...]  # (n,) int64 for every cluster; none if there is only one

    @classmethod
    def sort(cls, ids: Tensor, bounds: Bounds, multiple: int = 1) -> ClusteredIds:
        """Take a `multiple` of positions for every cluster, where there are as many."""
        if len(bounds) == 1:
            return cls(ids, ())
        flat_N, positions = ids.flatten(), []
        for low, high in bounds:
            inside_N = (flat_N >= low) & (flat_N < high)
            index = inside_N.nonzero()[:, 0]
            if spare := -len(index) % multiple:
                index = torch.cat([index, (~inside_N).nonzero()[:spare, 0]])
            positions.append(index)
        return cls(ids, tuple(positions))

    @classmethod
    def of(cls, ids: Tensor | ClusteredIds, bounds: Bounds) -> ClusteredIds:
        """Ids that may be sorted already."""
        return ids if isinstance(ids, ClusteredIds) else cls.sort(ids, bounds)

    @property
    def shape(self) -> torch.Size:
        return self.ids.shape

    def flatten(self) -> ClusteredIds:
        return ClusteredIds(self.ids.flatten(), self.positions)

    def of_cluster(self, cluster: int, bounds: Bounds) -> tuple[Tensor, Tensor, Tensor | None]:
        """Of (N,) ids, three times (n,): positions, words as numbers in the cluster, and whether they are its own.

        Words of other clusters are given as the first of this one. None: there are no such words.
        """
        (low, high), index = bounds[cluster], self.positions[cluster]
        words = self.ids.index_select(0, index) - low
        if sum(map(len, self.positions)) == len(self.ids):
            return index, words, None
        inside = (words >= 0) & (words < high - low)
        return index, words.where(inside, 0), inside


def zero_outside(x: Tensor, inside: Tensor | None) -> Tensor:
    """What was computed of a cluster's words (n, ...), and zeros of those that are not its own."""
    return x if inside is None else x.where(inside.view(-1, *(1,) * (x.dim() - 1)), 0)

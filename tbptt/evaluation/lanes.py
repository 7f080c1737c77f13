"""Cuts a split into lanes for evaluation: so that the loss equals that of a single lane, or into pieces.

A single lane reads the split from its start in segments of T tokens. With several lanes, each starts a stride of whole
segments after the one before it, and reads beyond its stride by the length of the burn-in. It scores all but its first
burn-in tokens, which are all that its state can depend on; the first lane scores those too. Every target is thus scored
once, by a lane whose state equals that of a single lane.

Pieces are lanes of their own: they have no burn-in, their stride is the length of a piece, and any number of them may
be read side by side.

Where documents reset the state, lanes begin at documents instead, and need no burn-in either.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tbptt.data.document_lanes import find_documents
from tbptt.launch.world import World


@dataclass(frozen=True)
class LanePlan:
    """The lanes that read a split, each from the empty state, and how many of them run side by side. Unit: tokens."""

    n_targets: int  # of the split
    tgt_len: int  # T, the segment length
    stride: int  # from the start of a lane to that of the next one
    burn_in: int = 0  # read but not scored, by all lanes but the first
    separate: bool = False  # each lane is a text of its own: its first position is 0
    limit: int | None = None  # of lanes side by side, on all ranks together

    @property
    def lanes(self) -> int:
        """The number of all lanes."""
        return max(1, -(-(self.n_targets - self.burn_in) // self.stride))

    @property
    def batch_size(self) -> int:
        """The number of lanes that run side by side, on all ranks together."""
        return min(self.limit or self.lanes, self.lanes)

    @property
    def longest(self) -> int:
        """The tokens of the longest lane."""
        return min(self.stride + self.burn_in, self.n_targets)

    @property
    def width(self) -> int:
        """The tokens of a step in each lane: a segment, or less if no lane is that long."""
        return min(self.tgt_len, self.longest)

    def batches(self, world: World) -> list[range]:
        """The lanes of this rank, in batches that run side by side, one batch after the other."""
        own, firsts = world.lanes(self.batch_size), range(0, self.lanes, self.batch_size)
        batches = [range(first + own.start, min(first + own.stop, self.lanes)) for first in firsts]
        return [lanes for lanes in batches if len(lanes)]

    def bounds(self, lanes: range) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """For each of these lanes (B,) the first token that it reads, the first that it scores, and its end."""
        first_B = np.array(lanes) * self.stride
        end_B = np.minimum(first_B + self.stride + self.burn_in, self.n_targets)
        return first_B, np.where(first_B == 0, 0, first_B + self.burn_in), end_B

    def steps(self, lanes: range) -> int:
        """The segments of the longest of these lanes."""
        first_B, _, end_B = self.bounds(lanes)
        return -(-int((end_B - first_B).max()) // self.tgt_len)

    def positions(self) -> np.ndarray:
        """For each target (n_targets,) int64, how many targets precede it since the state was empty."""
        position_N = np.arange(self.n_targets)
        return position_N % self.stride if self.separate else position_N


@dataclass(frozen=True)
class DocumentPlan(LanePlan):
    """Lanes of whole documents, of which each reads one after the other."""

    scored: tuple[int, ...] = ()  # the first scored token of every lane, which begins a document
    grid: int = 1  # lanes are read from a multiple of it

    @property
    def lanes(self) -> int:
        return len(self.scored)

    @property
    def longest(self) -> int:
        first, _, end = self.bounds(range(self.lanes))
        return int((end - first).max())

    def bounds(self, lanes: range) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        scored = np.array((*self.scored, self.n_targets))
        scored_B, end_B = scored[list(lanes)], scored[[lane + 1 for lane in lanes]]
        return scored_B // self.grid * self.grid, scored_B, end_B


def plan_documents(
    n_targets: int, tgt_len: int, batch_size: int, starts_D: np.ndarray, sees_cuts: bool
) -> DocumentPlan:
    """At most `batch_size` lanes of about equal length, which begin at some of the documents' first tokens.

    If the model sees where segments are cut, lanes are cut where a single lane would be, at multiples of `tgt_len`:
    each also reads what stands before its first document in that segment.
    """
    even_B = np.arange(batch_size) * n_targets // batch_size
    nearest_B = np.searchsorted(starts_D, even_B)
    first_B = np.unique(starts_D[nearest_B[nearest_B < len(starts_D)]])
    scored = tuple(first_B[first_B < n_targets].tolist())
    return DocumentPlan(n_targets, tgt_len, n_targets, scored=scored, grid=tgt_len if sees_cuts else 1)


def plan_lanes(n_targets: int, tgt_len: int, batch_size: int, burn_in: int, separate: bool = False) -> LanePlan:
    """Divide the segments of `n_targets` targets among at most `batch_size` lanes, with a `burn_in` of whole segments.

    One lane needs no burn-in.
    """
    n_segments, burn_in_segments = -(-n_targets // tgt_len), burn_in // tgt_len
    stride = max(1, -(-(n_segments - burn_in_segments) // batch_size))
    plan = LanePlan(n_targets, tgt_len, stride * tgt_len, burn_in, separate)
    return plan if plan.lanes > 1 else LanePlan(n_targets, tgt_len, n_segments * tgt_len, 0, separate)


@dataclass(frozen=True)
class ScoredSegment:
    """What `lanes` read in a step, and the N targets that are scored in it, as int64."""

    tokens_BT: Tensor
    starts_BT: Tensor | None  # bool: where documents begin, if they reset the state
    places_N: Tensor  # the index of each target in the flattened tokens
    targets_N: Tensor
    index_N: Tensor  # of each target in the split


def scored_segments(
    stream: np.ndarray, plan: LanePlan, lanes: range, starts_D: np.ndarray | None = None
) -> Iterator[ScoredSegment]:
    """Yield all steps of `lanes`; `starts_D` are the first tokens of documents that reset the state.

    Behind the end of a lane stands token 0, and nothing is scored; being last, it influences no scored target.
    """
    first_B, scored_B, end_B = plan.bounds(lanes)
    for step in range(plan.steps(lanes)):
        index_BT = first_B[:, None] + step * plan.tgt_len + np.arange(plan.width)
        inside_BT = index_BT < end_B[:, None]
        tokens_BT = np.where(inside_BT, stream[np.where(inside_BT, index_BT, 0)], 0).astype(np.int64)
        scored_BT = inside_BT & (index_BT >= scored_B[:, None])
        index_N = index_BT[scored_BT]
        arrays = tokens_BT, scored_BT.ravel().nonzero()[0], stream[index_N + 1].astype(np.int64), index_N
        tokens, *scored = map(torch.from_numpy, arrays)
        starts_BT = None if starts_D is None else torch.from_numpy(find_documents(starts_D, index_BT)[1] == 0)
        yield ScoredSegment(tokens, starts_BT, *scored)

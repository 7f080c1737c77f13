"""Cuts a split into lanes for evaluation so that the loss equals that of a single lane.

A single lane reads the split from its start in segments of T tokens. With several lanes, lane b starts at segment b*P,
runs W = P + R segments and scores all but the first R. This burn-in of R*T tokens covers all tokens that a state can
depend on. The first lane scores all of its segments. Every segment is thus scored once, by a lane whose state equals
that of a single lane.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class LanePlan:
    """The number of lanes (B), and for each lane the segments between lane starts (P) and of the burn-in (R)."""

    lanes: int
    stride: int  # P
    burn_in: int  # R

    @property
    def steps(self) -> int:
        """W, the segments that every lane runs."""
        return self.stride + self.burn_in


def plan_lanes(n_segments: int, batch_size: int, burn_in: int) -> LanePlan:
    """Divide `n_segments` among at most `batch_size` lanes; all but the first also run `burn_in` unscored segments."""
    stride = max(1, -(-(n_segments - burn_in) // batch_size))
    lanes = max(1, -(-(n_segments - burn_in) // stride))
    return LanePlan(lanes, stride, burn_in) if lanes > 1 else LanePlan(1, n_segments, 0)


def scored_segments(
    stream: np.ndarray, tgt_len: int, plan: LanePlan, own_lanes: slice
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Yield for every step the tokens (B, T) of `own_lanes`, and for the N scored positions (each (N,), all int64):
    the index in the flattened tokens, the target, and the index of the loss in the stream.

    Positions after the end of the stream hold token 0 and are not scored; being last, they influence no scored one.
    """
    starts_B = np.arange(plan.lanes)[own_lanes] * plan.stride
    last = len(stream) - 1
    for step in range(plan.steps):
        position_BT = (starts_B + step)[:, None] * tgt_len + np.arange(min(tgt_len, last))
        inside_BT = position_BT < last
        safe_BT = np.where(inside_BT, position_BT, 0)
        tokens_BT = np.where(inside_BT, stream[safe_BT], 0).astype(np.int64)
        after_burn_in_B = (step >= plan.burn_in) | (starts_B == 0)
        scored_BT = inside_BT & after_burn_in_B[:, None]
        position_N = position_BT[scored_BT]
        arrays = tokens_BT, scored_BT.ravel().nonzero()[0], stream[position_N + 1].astype(np.int64), position_N
        tokens, index, targets, positions = map(torch.from_numpy, arrays)
        yield tokens, index, targets, positions

"""A split cut into lanes for evaluation, so that many lanes give exactly the one-lane number.

One lane reads the split from its start in segments of T tokens. Lane b of many starts at segment b*P of that walk, runs
W = P + R segments and scores all but the first R: the burn-in, R*T tokens, is as far back as a state can reach. The
first lane has nothing before it and scores everything. Each segment of the walk is thus scored once, by a lane whose
state equals that of the one-lane walk.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class LanePlan:
    """How many lanes there are (B), and the segments each of them runs (W), steps over (P) and burns in (R)."""

    lanes: int
    stride: int  # P
    burn_in: int  # R

    @property
    def run(self) -> int:
        """W, the segments every lane runs."""
        return self.stride + self.burn_in


def plan_lanes(n_segments: int, batch_size: int, burn_in: int) -> LanePlan:
    """Share `n_segments` among at most `batch_size` lanes; all but the first also run `burn_in` unscored ones."""
    stride = max(1, -(-(n_segments - burn_in) // batch_size))
    lanes = max(1, -(-(n_segments - burn_in) // stride))
    return LanePlan(lanes, stride, burn_in) if lanes > 1 else LanePlan(1, n_segments, 0)


def scored_segments(
    stream: np.ndarray, tgt_len: int, plan: LanePlan, mine: slice
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """For every step: tokens (B, T) of the lanes `mine`; of the N positions whose target counts: where they are in the
    flattened tokens, the targets, and where those are in the text. All int64.

    Positions after the end of the stream hold token 0 and do not count; being last, they influence nothing that does.
    """
    starts_B = np.arange(plan.lanes)[mine] * plan.stride
    last = len(stream) - 1
    for step in range(plan.run):
        position_BT = (starts_B + step)[:, None] * tgt_len + np.arange(min(tgt_len, last))
        inside_BT = position_BT < last
        safe_BT = np.where(inside_BT, position_BT, 0)
        tokens_BT = np.where(inside_BT, stream[safe_BT], 0).astype(np.int64)
        burnt_in_B = (step >= plan.burn_in) | (starts_B == 0)
        counts_BT = inside_BT & burnt_in_B[:, None]
        place_N = position_BT[counts_BT]
        arrays = tokens_BT, counts_BT.ravel().nonzero()[0], stream[place_N + 1].astype(np.int64), place_N
        tokens, counted, targets, places = map(torch.from_numpy, arrays)
        yield tokens, counted, targets, places

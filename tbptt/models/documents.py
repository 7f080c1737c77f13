"""Documents in a segment: what a model needs to know of their starts so that nothing passes from one to the next.

Shapes: B lanes, T tokens of the segment.
"""

from __future__ import annotations

import torch
from torch import Tensor

BEFORE = 1 << 30  # is added where the document began before this segment: more than any distance in it


def tokens_since_start(starts_BT: Tensor) -> Tensor:
    """How many tokens of its document precede each token in this segment, (B, T) int64, from the starts (bool).

    In a document that began before the segment, `BEFORE` is added to the tokens of the segment: a token at distance d
    belongs to the same document if and only if d is at most this number.
    """
    t = torch.arange(starts_BT.shape[1], device=starts_BT.device)
    return t - torch.where(starts_BT, t, -BEFORE).cummax(dim=1).values


def count_memory(since_BT: Tensor, remembered_B: Tensor) -> Tensor:
    """The same numbers where documents that began before the segment count the tokens of theirs that are remembered.

    `remembered_B` int64 are those of every lane's current document before this segment.
    """
    return torch.where(since_BT < BEFORE, since_BT, since_BT - BEFORE + remembered_B[:, None])

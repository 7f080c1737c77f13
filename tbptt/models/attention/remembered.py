"""How much of a memory belongs to its lane's document: a count that is part of the state from the first starts on.

Shapes: B lanes, T tokens of the segment, M remembered tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tbptt.models.documents import count_memory, tokens_since_start


def visible_before(
    since_BT: Tensor | None, memory: Tensor, T: int, remembered_B: Tensor | None = None
) -> Tensor | None:
    """How many tokens before each token of the segment belong to its document, those in memory included: (B, T) int64.

    `since_BT` are the tokens since the start in this segment (None: no starts in this call), `remembered_B` the count
    that the state carries. A state without it has not met starts: all of its memory (B, M, ...) counts. None if there
    is neither, and attention sees all that it sees without documents.
    """
    if since_BT is None and remembered_B is None:
        return None
    B, M = memory.shape[:2]
    if since_BT is None:
        since_BT = tokens_since_start(torch.zeros(B, T, dtype=torch.bool, device=memory.device))
    if remembered_B is None:
        remembered_B = torch.full((B,), M, dtype=torch.int64, device=memory.device)
    return count_memory(since_BT, remembered_B)


def next_remembered(since_BT: Tensor | None) -> dict[str, Tensor]:
    """What the next state has of this: `remembered` (B,), the tokens of every lane's document so far that count.

    A memory that is cut to less holds the newest of them.
    """
    return {} if since_BT is None else {"remembered": since_BT[:, -1] + 1}

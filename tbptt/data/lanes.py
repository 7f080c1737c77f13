"""A token stream divided into lanes, and lanes into segments.

Shapes: B lanes (of the global batch), L tokens of a lane, T tokens of a segment.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tbptt.errors import UserError


class Lanes:
    """Row b of every batch reads lane b from start to end; a lane's last segment may be shorter than tgt_len.

    The target of every token is the next token of the stream, also across segment and lane borders: every target is
    used, except in the remainder of the stream that does not fill a lane.
    """

    def __init__(self, tokens_BL: np.ndarray, targets_BL: np.ndarray, tgt_len: int):
        self.tokens_BL, self.targets_BL, self.tgt_len = tokens_BL, targets_BL, tgt_len

    @classmethod
    def cut(cls, stream: np.ndarray, batch_size: int, tgt_len: int) -> Lanes:
        """Trim `stream` to whole lanes. UserError if it is too short to give every lane a token."""
        length = (len(stream) - 1) // batch_size
        if length < 1:
            raise UserError(
                f"data.batch_size={batch_size} lanes need at least {batch_size + 1} tokens; there are {len(stream)}"
            )
        n = batch_size * length
        return cls(stream[:n].reshape(batch_size, length), stream[1 : n + 1].reshape(batch_size, length), tgt_len)

    def part(self, lanes: slice) -> Lanes:
        """A slice of the lanes, such as those of one rank."""
        return Lanes(self.tokens_BL[lanes], self.targets_BL[lanes], self.tgt_len)

    @property
    def batch_size(self) -> int:
        return self.tokens_BL.shape[0]

    def __len__(self) -> int:
        """The number of segments in one epoch."""
        return -(-self.tokens_BL.shape[1] // self.tgt_len)

    def segment(self, index: int) -> tuple[Tensor, Tensor]:
        """Tokens and targets of all lanes, each (B, T) int64."""
        part = slice(index * self.tgt_len, (index + 1) * self.tgt_len)
        return _tensor(self.tokens_BL[:, part]), _tensor(self.targets_BL[:, part])


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array.astype(np.int64))

"""A token stream divided into lanes, and lanes into segments.

Shapes: B lanes (of the global batch), L tokens of a lane, T tokens of a segment.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from tbptt.errors import UserError


def lane_length(n_tokens: int, batch_size: int) -> int:
    """The tokens of each lane. UserError if a stream of `n_tokens` is too short to give every lane one."""
    if n_tokens <= batch_size:
        raise UserError(
            f"data.batch_size={batch_size} lanes need at least {batch_size + 1} tokens; there are {n_tokens}"
        )
    return (n_tokens - 1) // batch_size


class Lanes:
    """Row b of every batch reads lane b from start to end; a lane's last segment may be shorter than tgt_len.

    The target of every token is the next token of the stream, also across segment and lane borders: every target is
    used, except in the remainder of the stream that does not fill a lane.

    With a `shuffle_seed`, each lane's segments are read in an order of its own, a new one in each epoch, which depends
    on the seed, the epoch and the lane alone; a shorter last segment stays the last.
    """

    def __init__(
        self,
        tokens_BL: np.ndarray,
        targets_BL: np.ndarray,
        tgt_len: int,
        shuffle_seed: int | None = None,
        first_lane: int = 0,
    ):
        """`first_lane` is the number of row 0 among the lanes of the global batch."""
        self.tokens_BL, self.targets_BL, self.tgt_len = tokens_BL, targets_BL, tgt_len
        self.shuffle_seed, self.first_lane = shuffle_seed, first_lane
        self._order = lru_cache(maxsize=1)(self._shuffled)  # of the current epoch

    @classmethod
    def cut(cls, stream: np.ndarray, batch_size: int, tgt_len: int, shuffle_seed: int | None = None) -> Lanes:
        """Trim `stream` to whole lanes. UserError if it is too short to give every lane a token."""
        length = lane_length(len(stream), batch_size)
        n = batch_size * length
        tokens_BL, targets_BL = (x.reshape(batch_size, length) for x in (stream[:n], stream[1 : n + 1]))
        return cls(tokens_BL, targets_BL, tgt_len, shuffle_seed)

    def part(self, lanes: slice) -> Lanes:
        """A slice of the lanes, such as those of one rank."""
        first_lane = self.first_lane + lanes.start
        return Lanes(self.tokens_BL[lanes], self.targets_BL[lanes], self.tgt_len, self.shuffle_seed, first_lane)

    @property
    def batch_size(self) -> int:
        return self.tokens_BL.shape[0]

    @property
    def length(self) -> int:
        """The tokens of a lane."""
        return self.tokens_BL.shape[1]

    def __len__(self) -> int:
        """The number of segments in one epoch."""
        return -(-self.length // self.tgt_len)

    def segment(self, index: int, epoch: int = 0) -> tuple[Tensor, Tensor]:
        """Tokens and targets of the segment that all lanes read as number `index` of an epoch, each (B, T) int64."""
        T, whole = self.tgt_len, self.length // self.tgt_len
        if self.shuffle_seed is None or index >= whole:
            part = slice(index * T, (index + 1) * T)
            return _tensor(self.tokens_BL[:, part]), _tensor(self.targets_BL[:, part])
        lanes_B, segments_B = np.arange(self.batch_size), self._order(epoch)[:, index]
        tokens_BT, targets_BT = (
            x_BL[:, : whole * T].reshape(self.batch_size, whole, T)[lanes_B, segments_B]
            for x_BL in (self.tokens_BL, self.targets_BL)
        )
        return _tensor(tokens_BT), _tensor(targets_BT)

    def _shuffled(self, epoch: int) -> np.ndarray:
        """The numbers of every lane's whole segments in the order of an epoch: (B, segments) int32."""
        assert self.shuffle_seed is not None
        whole = self.length // self.tgt_len
        lanes = range(self.first_lane, self.first_lane + self.batch_size)
        generators = (np.random.default_rng([self.shuffle_seed, epoch, lane]) for lane in lanes)
        return np.stack([generator.permutation(whole) for generator in generators]).astype(np.int32)


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array.astype(np.int64))

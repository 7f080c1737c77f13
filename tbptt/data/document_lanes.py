"""A stream of documents, in order or shuffled, divided into lanes and segments with the starts of the documents.

Shapes: B lanes, T tokens of a segment, D documents, I any shape of indices.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from tbptt.data.lanes import lane_length


def find_documents(starts_D: np.ndarray, index_I: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The document of each token, and how many tokens of it precede the token, from the first tokens of all."""
    document_I = np.searchsorted(starts_D, index_I, side="right") - 1
    return document_I, index_I - starts_D[document_I]


class DocumentLanes:
    """Lanes as `Lanes`, whose segments also show the starts of documents.

    With a `shuffle_seed` all documents of the stream are put in another order in each epoch, a function of seed and
    epoch alone; then the stream is cut into lanes. Targets follow the order: the last token of a document predicts the
    first of the one that is read next.
    """

    def __init__(
        self,
        stream: np.ndarray,
        starts_D: np.ndarray,
        batch_size: int,
        tgt_len: int,
        shuffle_seed: int | None = None,
        lanes: slice | None = None,
    ):
        """`starts_D` are the first tokens of the documents, ascending from 0; `lanes` a part of the `batch_size` lanes.

        UserError if the stream is too short to give every lane a token.
        """
        self.stream, self.starts_D, self.tgt_len, self.shuffle_seed = stream, starts_D, tgt_len, shuffle_seed
        self.all_lanes, self.length = batch_size, lane_length(len(stream), batch_size)
        self.own_lanes = lanes or slice(0, batch_size)
        self._order = lru_cache(maxsize=1)(self._shuffled)  # of the current epoch

    def part(self, lanes: slice) -> DocumentLanes:
        """A slice of the lanes, such as those of one rank."""
        first = self.own_lanes.start
        own = slice(first + lanes.start, first + lanes.stop)
        return DocumentLanes(self.stream, self.starts_D, self.all_lanes, self.tgt_len, self.shuffle_seed, own)

    @property
    def batch_size(self) -> int:
        return self.own_lanes.stop - self.own_lanes.start

    def __len__(self) -> int:
        """The number of segments in one epoch."""
        return -(-self.length // self.tgt_len)

    def segment(self, index: int, epoch: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens and targets, (B, T) int64, and starts (B, T) bool of segment `index` of an epoch."""
        lanes_B = np.arange(self.own_lanes.start, self.own_lanes.stop)
        first, end = index * self.tgt_len, min((index + 1) * self.tgt_len, self.length)
        place_BT = lanes_B[:, None] * self.length + np.arange(first, end + 1)  # in the order of the epoch, with targets
        begin_D, source_D = self._order(epoch) if self.shuffle_seed is not None else (self.starts_D, self.starts_D)
        document_BT, position_BT = find_documents(begin_D, place_BT)
        read_BT = torch.from_numpy(self.stream[source_D[document_BT] + position_BT].astype(np.int64))
        return read_BT[:, :-1], read_BT[:, 1:], torch.from_numpy(position_BT[:, :-1] == 0)

    def _shuffled(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Where every document begins in the order of an epoch, and in the stream."""
        order_D = np.random.default_rng([self.shuffle_seed or 0, epoch]).permutation(len(self.starts_D))
        lengths_D = np.diff(self.starts_D, append=len(self.stream))[order_D]
        return np.cumsum(lengths_D) - lengths_D, np.asarray(self.starts_D)[order_D]

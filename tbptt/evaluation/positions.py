"""The mean loss by position since the state was empty, in buckets that grow with the position.

Position 0 is the first prediction from the empty state. Positions below 8 have a bucket each; from there on every
octave (8 to 15, 16 to 31, ...) has four of equal width, so that powers of two are borders. Buckets do not depend on the
text, the model or the pieces: curves of different evaluations can be compared bucket by bucket.

The standard error of a bucket is taken over pieces, because the losses within a piece are correlated. The mean is a
ratio of two sums over pieces, of losses and of targets, so that with s_p the sum and c_p the count of piece p of P

    mean = sum s_p / sum c_p,   error^2 = P / (P - 1) * sum (s_p - mean c_p)^2 / (sum c_p)^2

Where all pieces have as many targets, this is the standard deviation of their means divided by the root of P.

Shapes: N targets, K buckets, R runs (the targets of one piece in one bucket).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BUCKETS_PER_OCTAVE = 4


@dataclass(frozen=True)
class PositionLoss:
    """The losses at the positions from `first` to `last`, over all pieces."""

    first: int
    last: int
    targets: int
    pieces: int  # that have targets here
    loss: float  # nats per token
    standard_error: float | None  # of the loss, over pieces; None if there is one only


def losses_by_position(losses_N: np.ndarray, positions_N: np.ndarray) -> list[PositionLoss]:
    """The buckets that have targets, of losses (N,) in nats.

    `positions_N` are the positions of the targets since the state was empty, in the order of the text: within a piece
    each is one more than that before it, and a piece starts wherever it is 0.
    """
    last_position = int(positions_N.max())
    edges = _edges(last_position)
    bucket_N = np.searchsorted(edges, positions_N, side="right") - 1
    start_R = np.flatnonzero((positions_N == 0) | (np.diff(bucket_N, prepend=-1) != 0))
    bucket_R, targets_R = bucket_N[start_R], np.diff(start_R, append=len(positions_N))
    sum_R = np.add.reduceat(losses_N, start_R, dtype=np.float64)
    targets_K, sum_K = np.bincount(bucket_R, targets_R), np.bincount(bucket_R, sum_R)
    pieces_K, mean_K = np.bincount(bucket_R), sum_K / np.maximum(targets_K, 1)
    squares_K = np.bincount(bucket_R, (sum_R - mean_K[bucket_R] * targets_R) ** 2)
    found = []
    for k in np.flatnonzero(pieces_K):
        pieces, targets = int(pieces_K[k]), int(targets_K[k])
        error = float(np.sqrt(squares_K[k] * pieces / (pieces - 1)) / targets) if pieces > 1 else None
        last = min(int(edges[k + 1]) - 1, last_position)
        found.append(PositionLoss(int(edges[k]), last, targets, pieces, float(mean_K[k]), error))
    return found


def _edges(last: int) -> np.ndarray:
    """The first positions of the buckets, up to one behind position `last` at least."""
    steps = range(BUCKETS_PER_OCTAVE, 2 * BUCKETS_PER_OCTAVE)
    growing = [step << octave for octave in range(last.bit_length()) for step in steps]
    return np.array([*range(BUCKETS_PER_OCTAVE), *growing])

"""The loss by position is a plain mean over the targets of each bucket, and its error that of the pieces' means."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tbptt.device import Precision
from tbptt.evaluation.config import BurnIn, EvalConfig
from tbptt.evaluation.positions import losses_by_position
from tbptt.evaluation.score import score
from tests.models.tiny import random_stream, tiny_lstm, tiny_txl

lengths = st.lists(st.integers(1, 70), min_size=1, max_size=8)


def random_losses(size: int) -> np.ndarray:
    return np.random.default_rng(size).gamma(2.0, size=size)


def positions_of(lengths: list[int]) -> np.ndarray:
    return np.concatenate([np.arange(length) for length in lengths])


def pieces_of(lengths: list[int], first: int, last: int) -> list[np.ndarray]:
    """The losses of each piece at the positions first to last, if it has any."""
    losses = np.split(random_losses(sum(lengths)), np.cumsum(lengths)[:-1])
    return [piece[first : last + 1] for piece in losses if len(piece) > first]


@given(lengths)
def test_a_bucket_is_the_mean_over_its_targets(lengths):
    found = losses_by_position(random_losses(sum(lengths)), positions_of(lengths))
    assert sum(bucket.targets for bucket in found) == sum(lengths)
    for bucket in found:
        parts = pieces_of(lengths, bucket.first, bucket.last)
        assert (bucket.pieces, bucket.targets) == (len(parts), sum(map(len, parts)))
        assert bucket.loss == pytest.approx(np.concatenate(parts).mean(), rel=1e-12)


@given(st.integers(1, 70), st.integers(2, 9))
def test_of_equal_pieces_the_error_is_that_of_their_means(length, pieces):
    lengths = [length] * pieces
    for bucket in losses_by_position(random_losses(sum(lengths)), positions_of(lengths)):
        means = [part.mean() for part in pieces_of(lengths, bucket.first, bucket.last)]
        assert bucket.standard_error == pytest.approx(np.std(means, ddof=1) / pieces**0.5, rel=1e-9, abs=1e-12)


@given(st.integers(2, 40), st.integers(1, 5))
def test_a_piece_counts_by_its_targets(long, short):
    """The formula, written out for two pieces that differ in length."""
    lengths = [16 + long, 16 + min(short, long)]
    bucket = next(b for b in losses_by_position(random_losses(sum(lengths)), positions_of(lengths)) if b.first == 16)
    one, two = pieces_of(lengths, bucket.first, bucket.last)
    residuals = [part.sum() - bucket.loss * len(part) for part in (one, two)]
    expected = (2 * (residuals[0] ** 2 + residuals[1] ** 2)) ** 0.5 / (len(one) + len(two))
    assert bucket.standard_error == pytest.approx(expected, rel=1e-9)


@given(st.integers(1, 5000))
def test_a_single_piece_has_no_error(length):
    assert {b.standard_error for b in losses_by_position(random_losses(length), np.arange(length))} == {None}


def test_a_standard_error_says_how_far_means_of_other_texts_would_be():
    """Losses that are strongly correlated within a piece: other texts give means that differ by the error stated."""
    random = np.random.default_rng(0)
    found = [[], []]
    for _ in range(300):
        losses_PN = 3 + random.standard_normal((20, 1)) + 0.1 * random.standard_normal((20, 12))
        bucket = losses_by_position(losses_PN.ravel(), positions_of([12] * 20))[-1]
        found[0].append(bucket.loss)
        found[1].append(bucket.standard_error)
    assert np.mean(found[1]) == pytest.approx(np.std(found[0]), rel=0.15)


@given(st.integers(0, 100_000))
def test_buckets_are_narrow_and_have_borders_at_powers_of_two(last):
    buckets = losses_by_position(np.ones(last + 1), np.arange(last + 1))
    assert [bucket.first for bucket in buckets[:8]] == list(range(min(8, last + 1)))
    assert all(before.last + 1 == after.first for before, after in pairwise(buckets))
    assert buckets[-1].last == last
    assert all(bucket.last - bucket.first < max(1, bucket.first / 4) for bucket in buckets)
    assert {2**i for i in range(17) if 2**i <= last} <= {bucket.first for bucket in buckets}


SETTINGS = [
    ({"piece_len": 9}, lambda n: np.arange(n) % 9),
    ({"piece_len": 500}, np.arange),
    ({}, np.arange),
    ({"burn_in": BurnIn.none}, lambda n: np.arange(n) % 52),  # 26 segments of 4, in 2 lanes
]


@pytest.mark.parametrize(("settings", "positions"), SETTINGS)
@pytest.mark.parametrize("model", [tiny_txl(), tiny_lstm()], ids=["txl", "lstm"])
def test_positions_are_counted_since_the_state_was_empty(model, settings, positions):
    """In the whole split, if its lanes are those of an exact evaluation, and else in the piece or the lane."""
    config = EvalConfig(batch_size=2, by_position=True, **settings)
    found = score(model, random_stream(104), config, 4, Precision.fp64)
    assert found.by_position == losses_by_position(found.losses_N, positions(103))
    total = sum(bucket.loss * bucket.targets for bucket in found.by_position)
    assert total / 103 == pytest.approx(found.loss, rel=1e-12)

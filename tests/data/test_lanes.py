"""Cutting a stream into lanes and segments loses the remainder alone, and shows every kept target once."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tbptt.data.lanes import Lanes
from tbptt.errors import UserError


@st.composite
def cuts(draw) -> tuple[int, Lanes]:
    """A stream whose tokens are their own positions, cut into lanes: its length and the lanes."""
    batch_size = draw(st.integers(1, 7))
    n_tokens = draw(st.integers(batch_size + 1, 80))
    return n_tokens, Lanes.cut(np.arange(n_tokens, dtype=np.uint16), batch_size, draw(st.integers(1, 12)))


def walk(lanes: Lanes) -> tuple[torch.Tensor, torch.Tensor]:
    """All segments of one epoch put together: tokens and targets (B, L)."""
    tokens, targets = zip(*(lanes.segment(i) for i in range(len(lanes))))
    return torch.cat(tokens, dim=1), torch.cat(targets, dim=1)


@given(cuts())
def test_every_kept_target_is_shown_once_and_only_the_remainder_is_not(cut):
    n_tokens, lanes = cut
    _, targets_BL = walk(lanes)
    kept = targets_BL.numel()
    assert sorted(targets_BL.flatten().tolist()) == list(range(1, kept + 1))
    assert 0 <= (n_tokens - 1) - kept < lanes.batch_size


@given(cuts())
def test_every_lane_is_one_stretch_of_the_stream_in_order(cut):
    _, lanes = cut
    tokens_BL, _ = walk(lanes)
    assert tokens_BL.flatten().tolist() == list(range(tokens_BL.numel()))


@given(cuts())
def test_the_target_is_the_next_token(cut):
    _, lanes = cut
    tokens_BL, targets_BL = walk(lanes)
    assert torch.equal(targets_BL, tokens_BL + 1)
    assert tokens_BL.dtype == targets_BL.dtype == torch.int64


@given(cuts())
def test_segments_are_full_but_for_the_last(cut):
    _, lanes = cut
    *full, last = [lanes.segment(i)[0].shape for i in range(len(lanes))]
    assert set(full) <= {(lanes.batch_size, lanes.tgt_len)}
    assert last[0] == lanes.batch_size and 1 <= last[1] <= lanes.tgt_len


@pytest.mark.parametrize("n_tokens, batch_size", [(0, 1), (1, 1), (4, 4), (2, 5)])
def test_a_stream_too_short_for_its_lanes_is_refused(n_tokens, batch_size):
    with pytest.raises(UserError, match=r"data\.batch_size"):
        Lanes.cut(np.arange(n_tokens), batch_size, 3)


def test_the_shortest_stream_gives_every_lane_one_token():
    lanes = Lanes.cut(np.arange(5), 4, 3)
    assert len(lanes) == 1
    assert lanes.segment(0)[1].tolist() == [[1], [2], [3], [4]]


@given(cuts(), st.integers(0, 3))
def test_shuffled_lanes_show_the_same_segments_in_another_order(cut, epoch):
    n_tokens, lanes = cut
    shuffled = Lanes.cut(np.arange(n_tokens, dtype=np.uint16), lanes.batch_size, lanes.tgt_len, shuffle_seed=5)
    segments = [shuffled.segment(i, epoch) for i in range(len(lanes))]
    assert [tokens.shape for tokens, _ in segments] == [lanes.segment(i)[0].shape for i in range(len(lanes))]
    for tokens_BT, targets_BT in segments:
        assert torch.equal(targets_BT, tokens_BT + 1)
        assert (tokens_BT.diff(dim=1) == 1).all()
    tokens_BL = torch.cat([tokens for tokens, _ in segments], dim=1)
    assert torch.equal(tokens_BL.sort(dim=1).values, walk(lanes)[0])


def test_an_order_follows_from_seed_epoch_and_lane_alone():
    def order(epoch: int, seed: int = 5, lanes: slice | None = None) -> torch.Tensor:
        shuffled = Lanes.cut(np.arange(1001), 4, 5, shuffle_seed=seed)
        shuffled = shuffled.part(lanes) if lanes else shuffled
        return torch.cat([shuffled.segment(i, epoch)[0] for i in range(len(shuffled))], dim=1)

    assert torch.equal(order(2), order(2))
    assert torch.equal(order(2)[1:3], order(2, lanes=slice(1, 3)))
    assert not torch.equal(order(2), order(3)) and not torch.equal(order(2), order(2, seed=6))
    first, second = (order(2)[lane] - order(2)[lane].min() for lane in (0, 1))
    assert not torch.equal(first, second)

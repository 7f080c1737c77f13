"""Pieces of a split are scored as if each were alone, however many are read side by side."""

from functools import cache
from itertools import zip_longest

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tbptt.device import Precision
from tbptt.evaluation.config import BurnIn, EvalConfig
from tbptt.evaluation.lanes import LanePlan
from tbptt.evaluation.plan import PIECES_AT_ONCE, choose_plan
from tbptt.evaluation.score import Score, score
from tbptt.launch.world import World
from tbptt.models.protocol import InitialMemory
from tests.evaluation.test_evaluation import Echo
from tests.helpers import assert_close
from tests.models.tiny import random_stream, run_segments, tiny_lstm, tiny_stack, tiny_txl

MODELS = {
    "txl": tiny_txl,
    "txl_window": lambda: tiny_txl(same_length=True, clamp_len=3),
    "txl_zeros": lambda: tiny_txl(initial_memory=InitialMemory.zeros),
    "lstm": tiny_lstm,
    "stack": tiny_stack,
}
BLIND = ("txl_window", "lstm", "stack")  # to where a text is cut into segments
build = cache(lambda name: MODELS[name]().eval())
streams = st.builds(random_stream, st.integers(2, 60), seed=st.integers(0, 9))
pieces, segments, lanes = st.integers(1, 70), st.integers(1, 9), st.integers(1, 6)


def scored(name: str, stream, **settings) -> Score:
    config = EvalConfig(save_losses="kept", **settings)
    return score(build(name), stream, config, tgt_len=4, precision=Precision.fp64)


@torch.no_grad()
def alone(name: str, stream: np.ndarray, piece_len: int, tgt_len: int) -> np.ndarray:
    """The losses of pieces that go through the model one after the other, each from its initial state."""
    tokens_1L, losses = torch.from_numpy(stream.astype(np.int64))[None], []
    for start in range(0, len(stream) - 1, piece_len):
        end = min(start + piece_len, len(stream) - 1)
        lengths = [min(tgt_len, end - segment) for segment in range(start, end, tgt_len)]
        nll_1L, _ = run_segments(build(name), tokens_1L[:, start:end], tokens_1L[:, start + 1 : end + 1], lengths)
        losses.append(nll_1L[0])
    return torch.cat(losses).numpy()


@pytest.mark.parametrize("name", MODELS)
@given(streams, pieces, segments, lanes)
def test_every_piece_has_the_losses_of_the_piece_alone(name, stream, piece_len, tgt_len, batch_size):
    found = scored(name, stream, piece_len=piece_len, tgt_len=tgt_len, batch_size=batch_size)
    expected = alone(name, stream, piece_len, tgt_len)
    assert found.tokens == len(stream) - 1
    assert_close(found.losses_N, expected, 1e-10)
    assert found.loss == pytest.approx(expected.mean(), rel=0, abs=1e-10)


@pytest.mark.parametrize("name", BLIND)
@given(streams, pieces, segments, segments)
def test_a_model_that_does_not_see_cuts_has_one_number_for_all_segment_lengths(name, stream, piece_len, one, other):
    first, second = (scored(name, stream, piece_len=piece_len, tgt_len=tgt_len) for tgt_len in (one, other))
    assert_close(first.losses_N, second.losses_N, 1e-10)


@given(st.integers(2, 150), pieces, st.integers(1, 40), st.integers(1, 12))
def test_every_target_is_scored_once_beside_its_token(n_tokens, piece_len, tgt_len, batch_size):
    config = EvalConfig(piece_len=piece_len, batch_size=batch_size)
    found = score(Echo(), np.arange(n_tokens) ** 2, config, tgt_len)
    assert found.tokens == n_tokens - 1
    assert found.loss * found.tokens == pytest.approx((n_tokens - 1) ** 2, rel=1e-12)


@pytest.mark.parametrize("name", MODELS)
@given(streams, st.integers(0, 9), lanes)
def test_one_piece_is_the_ordinary_evaluation(name, stream, more, batch_size):
    found = scored(name, stream, piece_len=len(stream) - 1 + more, batch_size=batch_size)
    assert found.settings["batch_size"] == 1
    assert found.loss == pytest.approx(scored(name, stream, batch_size=1).loss, rel=1e-12)


@given(streams, pieces, st.integers(1, 70))
def test_max_tokens_ends_the_last_piece(stream, piece_len, max_tokens):
    found = scored("stack", stream, piece_len=piece_len, max_tokens=max_tokens)
    assert found.tokens == min(max_tokens, len(stream) - 1)
    assert_close(found.losses_N, alone("stack", stream, piece_len, 4)[: found.tokens], 1e-10)


@pytest.mark.parametrize("burn_in", BurnIn)
def test_pieces_are_exact_and_need_no_burn_in(burn_in):
    stream = random_stream(100)
    found = scored("txl", stream, piece_len=9, batch_size=3, burn_in=burn_in)
    assert_close(found.losses_N, alone("txl", stream, 9, 4), 1e-10)
    assert found.settings.items() >= {"piece_len": 9, "batch_size": 3, "burn_in": "exact"}.items()
    assert "piece_len" not in scored("txl", stream, burn_in=burn_in).settings


def test_pieces_of_a_recurrent_model_run_side_by_side():
    assert scored("lstm", random_stream(100), piece_len=10).settings["batch_size"] > 1


def test_without_a_batch_size_there_are_not_too_many_states_at_once():
    chosen = choose_plan(build("lstm"), 1_000_000, EvalConfig(piece_len=4), 4, World())
    assert 1 < chosen.batch_size <= PIECES_AT_ONCE
    chosen = choose_plan(build("lstm"), 1_000_000, EvalConfig(piece_len=4, batch_size=300), 4, World())
    assert chosen.batch_size == 300


@given(st.integers(1, 200), pieces, st.integers(1, 20), st.integers(1, 5))
def test_ranks_share_the_pieces_and_together_keep_to_the_limit(n_targets, piece_len, limit, size):
    plan = LanePlan(n_targets, 4, piece_len, separate=True, limit=limit)
    ranks = [plan.batches(World(rank, size)) for rank in range(size)]
    assert sorted(lane for batches in ranks for batch in batches for lane in batch) == list(range(plan.lanes))
    side_by_side = [sum(map(len, batches)) for batches in zip_longest(*ranks, fillvalue=())]
    assert all(lanes <= limit for lanes in side_by_side)

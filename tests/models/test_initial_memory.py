"""A memory of zeros that are attended to: another start than none, and exact in any number of lanes."""

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from tbptt.data.lanes import Lanes
from tbptt.device import Precision
from tbptt.errors import UserError
from tbptt.evaluation.config import BurnIn, EvalConfig
from tbptt.evaluation.score import Score, score
from tbptt.models.protocol import InitialMemory
from tests.models.tiny import random_stream, run_segments, tiny_txl
from tests.training.trainers import make_trainer

MODEL = tiny_txl().eval()
streams = st.builds(random_stream, st.integers(2, 120), seed=st.integers(0, 9))


def scored(stream, start: str = "zeros", **settings) -> Score:
    config = EvalConfig(initial_memory=InitialMemory[start], **settings)
    return score(MODEL, stream, config, tgt_len=4, precision=Precision.fp64)


@given(streams, st.integers(2, 12), st.integers(1, 9), st.integers(0, 13), st.sampled_from([-1, 2, 7]), st.booleans())
def test_any_number_of_lanes_gives_the_one_lane_number(stream, lanes, tgt_len, mem_len, clamp_len, same_length):
    assume(mem_len > 0 or not same_length)
    settings = {"tgt_len": tgt_len, "mem_len": mem_len, "clamp_len": clamp_len, "same_length": same_length}
    one = scored(stream, batch_size=1, **settings).loss
    assert scored(stream, batch_size=lanes, **settings).loss == pytest.approx(one, rel=1e-12)


@given(streams, st.integers(1, 20), st.integers(1, 13))
def test_under_same_length_any_segment_length_gives_the_same_number(stream, tgt_len, mem_len):
    settings = {"mem_len": mem_len, "same_length": True}
    one = scored(stream, tgt_len=5, batch_size=1, **settings).loss
    assert scored(stream, tgt_len=tgt_len, batch_size=3, **settings).loss == pytest.approx(one, rel=1e-12)


@torch.no_grad()
def test_the_zeros_are_attended_to_and_forgotten_after_the_reach():
    stream = torch.from_numpy(random_stream(201).astype("int64"))[None]
    nll = {}
    for start in InitialMemory:
        with MODEL.with_context(initial_memory=start.name):
            assert MODEL.initial_state(2)[0].shape == (2, 6 if start is InitialMemory.zeros else 0, 8)
            nll[start], _ = run_segments(MODEL, stream[:, :-1], stream[:, 1:], [4] * 50)
    difference = (nll[InitialMemory.zeros] - nll[InitialMemory.empty]).abs()[0]
    reach = MODEL.reach(4)
    assert difference[:4].min() > 1e-4 and difference[reach:].max() < 1e-12 < difference[:reach].max()


def test_the_start_is_reported_where_it_is_not_the_usual_one():
    stream = random_stream(50)
    assert scored(stream).settings["initial_memory"] == "zeros"
    assert "initial_memory" not in scored(stream, "empty").settings
    assert MODEL.context()["initial_memory"] == "empty", "a score leaves no trace"


def test_without_burn_in_every_lane_starts_from_zeros():
    stream = random_stream(100)
    none = scored(stream, batch_size=8, burn_in=BurnIn.none).loss
    assert abs(none - scored(stream, batch_size=8).loss) > 1e-6


def test_a_model_trains_from_zeros():
    lanes, losses = Lanes.cut(random_stream(400), 4, 4), {}
    for start in InitialMemory:
        losses[start] = make_trainer(tiny_txl(initial_memory=start), lanes).update().loss
    assert losses[InitialMemory.zeros] != losses[InitialMemory.empty]


def test_another_start_is_refused_and_changes_nothing():
    with pytest.raises(UserError, match="initial_memory=ones must be one of empty, zeros"):
        MODEL.set_context(initial_memory="ones", mem_len=1)
    assert MODEL.context() == {"mem_len": 6, "clamp_len": -1, "same_length": False, "initial_memory": "empty"}

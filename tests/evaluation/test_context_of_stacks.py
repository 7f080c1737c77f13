"""Context settings of an evaluation apply to the attention layers of a stack, and its numbers stay exact."""

from functools import cache

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tbptt.device import Precision
from tbptt.errors import UserError
from tbptt.evaluation.config import EvalConfig
from tbptt.evaluation.score import score
from tbptt.models.mixers import AttentionConfig, RelativeAttentionConfig
from tests.models.tiny import random_stream, tiny_stack

build = cache(
    lambda *layers: tiny_stack(
        layers=list(layers), attention=AttentionConfig(n_head=2, d_head=4, window=3),
        relative_attention=RelativeAttentionConfig(n_head=2, d_head=4, mem_len=5),
    ).eval()
)  # fmt: skip
BOTH = ("relative_attention", "attention")


def scored(layers, stream, **settings):
    return score(build(*layers), stream, EvalConfig(**settings), tgt_len=4, precision=Precision.fp64)


@given(st.integers(2, 90), st.integers(2, 9), st.integers(1, 9), st.integers(0, 13), st.booleans())
def test_any_number_of_lanes_gives_the_one_lane_number(n_tokens, batch_size, tgt_len, mem_len, same_length):
    assume(mem_len > 0 or not same_length)
    stream = random_stream(n_tokens)
    settings = {"tgt_len": tgt_len, "mem_len": mem_len, "clamp_len": 4, "same_length": same_length}
    one = scored(BOTH, stream, batch_size=1, **settings).loss
    assert scored(BOTH, stream, batch_size=batch_size, **settings).loss == pytest.approx(one, rel=1e-12)
    assert scored(BOTH, stream, **settings).loss == pytest.approx(one, rel=1e-12)


@given(st.integers(2, 90), st.integers(1, 20), st.integers(1, 13))
def test_under_same_length_any_segment_length_gives_the_same_number(n_tokens, walk_len, mem_len):
    stream, settings = random_stream(n_tokens), {"mem_len": mem_len, "same_length": True}
    one = scored(BOTH, stream, tgt_len=5, batch_size=1, walk_len=5, **settings).loss
    assert scored(BOTH, stream, tgt_len=5, walk_len=walk_len, **settings).loss == pytest.approx(one, rel=1e-12)


def test_a_longer_memory_is_another_model_s_that_was_built_with_it():
    stream, built = random_stream(60), tiny_stack(layers=["attention"], attention=AttentionConfig(2, None, 4, window=8))
    expected = score(built, stream, EvalConfig(batch_size=1), 4, Precision.fp64).loss
    assert scored(["attention"], stream, mem_len=7, batch_size=1).loss == pytest.approx(expected, rel=1e-12)
    assert scored(["attention"], stream, batch_size=1).loss != pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    "layers, settings, reported",
    [
        (BOTH, {}, {"mem_len": 5, "clamp_len": -1, "same_length": False}),
        (BOTH, {"mem_len": 3, "clamp_len": 2}, {"mem_len": 3, "clamp_len": 2, "same_length": False}),
        (["gla", "attention"], {"mem_len": 9}, {"mem_len": 9, "clamp_len": None, "same_length": None}),
        (["gla"], {}, {"mem_len": None, "clamp_len": None, "same_length": None}),
    ],
)
def test_the_settings_are_reported_and_the_model_keeps_its_own(layers, settings, reported):
    model = build(*layers)
    before = [layer.mixer.context() for layer in model.layers]
    found = scored(layers, random_stream(40), **settings).settings
    assert found.items() >= reported.items()
    assert [layer.mixer.context() for layer in model.layers] == before


def test_a_walk_of_its_own_length_needs_layers_that_do_not_see_the_cut():
    with pytest.raises(UserError, match=r"eval\.walk_len=3 needs eval\.same_length=true"):
        scored(BOTH, random_stream(20), walk_len=3)
    one = scored(["attention"], random_stream(20), batch_size=1).loss
    assert scored(["attention"], random_stream(20), walk_len=3).loss == pytest.approx(one, rel=1e-12)


def test_a_recurrent_layer_hears_of_everything_and_so_takes_one_lane():
    assert scored(["gla", "attention"], random_stream(40), batch_size=5, mem_len=2).settings["batch_size"] == 1

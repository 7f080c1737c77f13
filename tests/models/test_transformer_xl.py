"""What Transformer-XL alone has: a memory of limited length, context settings, activation checkpointing."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tbptt.errors import UserError
from tbptt.models.attention.choice import Attention
from tbptt.models.protocol import InitialMemory
from tests.helpers import assert_close
from tests.models.tiny import random_tokens, run_segments, tiny_lstm, tiny_txl


@torch.no_grad()
@given(st.lists(st.integers(1, 7), min_size=1, max_size=5), st.integers(0, 9))
def test_memory_holds_the_newest_positions_and_never_more_than_mem_len(lengths, mem_len):
    model, tokens_BL, targets_BL = (
        tiny_txl(mem_len=mem_len),
        random_tokens(2, sum(lengths)),
        random_tokens(2, sum(lengths)),
    )
    for i in range(1, len(lengths) + 1):
        _, state = run_segments(model, tokens_BL, targets_BL, lengths[:i])
        seen = sum(lengths[:i])
        for memory_BMD in state:
            assert memory_BMD.shape == (2, min(mem_len, seen), 8)
        newest = model.embedding(tokens_BL[:, max(0, seen - mem_len) : seen])
        assert torch.equal(state[0], newest)


@torch.no_grad()
def test_a_smaller_mem_len_shortens_the_next_memory():
    model, tokens_BL = tiny_txl(mem_len=9), random_tokens(2, 16)
    _, state = run_segments(model, tokens_BL, tokens_BL, [8, 4])
    model.set_context(mem_len=3)
    _, state = run_segments(model, tokens_BL[:, 12:], tokens_BL[:, 12:], [1], state)
    assert {memory_BMD.shape[1] for memory_BMD in state} == {3}


@torch.no_grad()
@given(
    st.lists(st.integers(1, 7), min_size=1, max_size=4),
    st.fixed_dictionaries(
        {
            "mem_len": st.integers(0, 9),
            "pre_lnorm": st.booleans(),
            "untie_r": st.booleans(),
            "initial_memory": st.sampled_from(InitialMemory),
        }
    ),
    st.sampled_from([(Attention.plain, torch.float64, 1e-12), (Attention.fused, torch.float32, 1e-4)]),
)
def test_a_state_for_inference_goes_on_like_the_state_itself(lengths, settings, path):
    attention, dtype, tolerance = path
    model, tokens_BL = tiny_txl(dtype, attention=attention, **settings), random_tokens(2, sum(lengths))
    nll_BL, state = run_segments(model, tokens_BL, tokens_BL, lengths)
    start = model.for_inference(model.initial_state(2))
    other_BL, other = run_segments(model, tokens_BL, tokens_BL, lengths, start)
    assert_close(other_BL, nll_BL, tolerance)
    assert [memory.shape[:2] for memory in other] == [memory.shape[:2] for memory in state]
    for found, memory in zip(other, model.for_inference(state), strict=True):
        assert_close(found, memory, tolerance)


@torch.no_grad()
def test_without_memory_every_segment_stands_alone():
    model, tokens_BL, targets_BL = tiny_txl(mem_len=0), random_tokens(2, 9, seed=1), random_tokens(2, 9, seed=2)
    nll_BL, _ = run_segments(model, tokens_BL, targets_BL, [4, 5])
    alone_BT, _ = run_segments(model, tokens_BL[:, 4:], targets_BL[:, 4:], [5])
    assert torch.equal(nll_BL[:, 4:], alone_BT)
    assert nll_BL.isfinite().all()


@torch.no_grad()
def test_attended_zero_vectors_are_not_an_empty_memory():
    model, tokens_BL = tiny_txl(mem_len=4), random_tokens(2, 5)
    zeros = tuple(torch.zeros(2, 4, 8, dtype=torch.float64) for _ in model.initial_state(2))
    empty_BT, _ = run_segments(model, tokens_BL, tokens_BL, [5])
    zeros_BT, _ = run_segments(model, tokens_BL, tokens_BL, [5], zeros)
    assert (zeros_BT - empty_BT).abs().max() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize(
    "tgt_len, mem_len, same_length",
    [
        (4, 4, False),
        (4, 6, False),
        (3, 7, False),
        (5, 2, False),
        (4, 0, False),
        (4, 4, True),
        (3, 7, True),
        (5, 1, True),
    ],
)
def test_nothing_older_than_its_reach_changes_a_loss(tgt_len, mem_len, same_length):
    model = tiny_txl(mem_len=mem_len, same_length=same_length)
    reach, n = model.reach(tgt_len), tgt_len
    assert reach % tgt_len == 0
    tokens_BL = random_tokens(2, tgt_len + reach + n)
    lengths = [tgt_len] * (tokens_BL.shape[1] // tgt_len)
    from_the_start, _ = run_segments(model, tokens_BL, tokens_BL, lengths)
    burnt_in, _ = run_segments(model, tokens_BL[:, tgt_len:], tokens_BL[:, tgt_len:], lengths[1:])
    assert_close(burnt_in[:, -n:], from_the_start[:, -n:], 1e-12)


@pytest.mark.parametrize(
    "settings, named",
    [
        ({"mem_len": -1}, "mem_len"),
        ({"mem_len": 0, "same_length": True}, "same_length"),
        ({"memlen": 3}, "memlen"),
        ({"clamp_len": 2, "tgt_len": 3}, "tgt_len"),
    ],
)
def test_a_context_that_cannot_work_is_refused_and_changes_nothing(settings, named):
    model = tiny_txl()
    before = model.context()
    with pytest.raises(UserError, match=named):
        model.set_context(**settings)
    assert model.context() == before


def test_the_context_can_be_lent_and_is_given_back():
    model = tiny_txl(mem_len=6)
    before = model.context()
    with pytest.raises(ZeroDivisionError):
        with model.with_context(mem_len=2, clamp_len=1, same_length=True):
            expected = {"mem_len": 2, "clamp_len": 1, "same_length": True, "initial_memory": "empty"}
            assert model.context() == expected
            raise ZeroDivisionError
    assert model.context() == before


def test_an_lstm_has_no_context_to_set():
    with pytest.raises(UserError, match="mem_len"):
        tiny_lstm().set_context(mem_len=3)


@pytest.mark.parametrize("pre_lnorm", [False, True])
@pytest.mark.parametrize("untie_r", [False, True])
def test_activation_checkpointing_changes_no_gradient_even_with_dropout(pre_lnorm, untie_r):
    settings = {"pre_lnorm": pre_lnorm, "untie_r": untie_r, "dropout": 0.3, "dropatt": 0.2}
    tokens_BL, targets_BL = random_tokens(3, 8, seed=1), random_tokens(3, 8, seed=2)
    results = []
    for checkpointing in (False, True):
        model = tiny_txl(checkpointing=checkpointing, **settings).train()
        torch.manual_seed(5)
        nll_BL, _ = run_segments(model, tokens_BL, targets_BL, [4, 4])
        nll_BL.mean().backward()
        results.append((nll_BL.detach(), *(parameter.grad for parameter in model.parameters())))
    for plain, checkpointed in zip(*results):
        assert torch.equal(plain, checkpointed)


@pytest.mark.parametrize(
    "settings, named",
    [
        ({"n_layer": 0}, "model.n_layer"),
        ({"d_model": 7}, "model.d_model"),
        ({"tgt_len": 0}, "model.tgt_len"),
        ({"dropout": 1.0}, "model.dropout"),
        ({"dropatt": -0.1}, "model.dropatt"),
        ({"cutoffs": [5, 5]}, "model.cutoffs"),
        ({"cutoffs": [5, 30]}, "model.cutoffs"),
        ({"cutoffs": [5, 10], "div_val": 4}, "model.div_val"),
        ({"cutoffs": [5], "tie_projs": [True]}, "model.tie_projs"),
        ({"mem_len": 0, "same_length": True}, "same_length"),
    ],
)
def test_settings_that_cannot_work_are_refused_by_name(settings, named):
    with pytest.raises(UserError, match=named):
        tiny_txl(**settings)

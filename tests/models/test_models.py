"""Models carry state as they promise: lanes are independent, the future stays hidden, segments are only a cut."""

from functools import cache

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tbptt.models.norms import Norm
from tbptt.models.protocol import detach, join_lanes, map_state, slice_lanes
from tbptt.models.stack import FeedForwardKind
from tests.helpers import assert_close
from tests.models.tiny import MIXERS, VOCABULARY, random_tokens, run_segments, tiny_lstm, tiny_stack, tiny_txl

ADAPTIVE = {"cutoffs": [5, 12], "d_embed": 6, "div_val": 2}
MODELS = {
    "txl": lambda **more: tiny_txl(**more),
    "txl_pre_norm_untied": lambda **more: tiny_txl(pre_lnorm=True, untie_r=True, **more),
    "txl_clamped_window": lambda **more: tiny_txl(clamp_len=3, same_length=True, mem_len=5, **more),
    "txl_adaptive": lambda **more: tiny_txl(**ADAPTIVE, clamp_len=4, **more),
    "lstm": lambda **more: tiny_lstm(**more),
    "lstm_adaptive": lambda **more: tiny_lstm(n_layer=1, **ADAPTIVE, **more),
    "stack": lambda **more: tiny_stack(layers=MIXERS, **more),
    "stack_adaptive": lambda **more: tiny_stack(
        **ADAPTIVE, feed_forward=FeedForwardKind.none, norm=Norm.layer, softmax_bias=False, logit_cap=2.0, **more
    ),
}
build = cache(lambda name: MODELS[name]().eval())
EVERY_MODEL = pytest.mark.parametrize("name", MODELS)
CUTS = st.lists(st.integers(1, 7), min_size=1, max_size=5)


def tensors(state) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    map_state(lambda x: found.append(x) or x, state)
    return found


def one_segment(model, tokens_BT, targets_BT, state=None):
    return run_segments(model, tokens_BT, targets_BT, [tokens_BT.shape[1]], state)


@torch.no_grad()
@pytest.mark.parametrize("name", ["lstm", "lstm_adaptive", "stack", "stack_adaptive"])
@given(CUTS)
def test_a_recurrent_model_gives_the_same_losses_however_it_is_segmented(name, lengths):
    tokens_BL = random_tokens(2, sum(lengths) + 1)
    tokens_BL, targets_BL = tokens_BL[:, :-1], tokens_BL[:, 1:]
    whole, _ = one_segment(build(name), tokens_BL, targets_BL)
    assert_close(run_segments(build(name), tokens_BL, targets_BL, lengths)[0], whole, 1e-12)


@torch.no_grad()
@pytest.mark.parametrize("name", ["txl", "txl_pre_norm_untied", "txl_adaptive"])
@given(CUTS, st.integers(0, 3))
def test_segmenting_does_not_matter_while_memory_covers_the_past(name, lengths, spare):
    tokens_BL, targets_BL = random_tokens(2, sum(lengths), seed=1), random_tokens(2, sum(lengths), seed=2)
    model = build(name)
    with model.with_context(mem_len=sum(lengths[:-1]) + spare):
        whole, _ = one_segment(model, tokens_BL, targets_BL)
        assert_close(run_segments(model, tokens_BL, targets_BL, lengths)[0], whole, 1e-12)


@torch.no_grad()
@pytest.mark.parametrize("name", ["txl", "txl_pre_norm_untied", "txl_adaptive"])
@given(CUTS, st.integers(1, 9))
def test_under_same_length_segmenting_never_matters(name, lengths, mem_len):
    tokens_BL, targets_BL = random_tokens(2, sum(lengths), seed=1), random_tokens(2, sum(lengths), seed=2)
    model = build(name)
    with model.with_context(mem_len=mem_len, same_length=True):
        whole, _ = one_segment(model, tokens_BL, targets_BL)
        assert_close(run_segments(model, tokens_BL, targets_BL, lengths)[0], whole, 1e-12)


@torch.no_grad()
@EVERY_MODEL
def test_sliced_lanes_run_alone_as_they_do_together(name):
    model, tokens_BL, targets_BL = build(name), random_tokens(4, 12, seed=1), random_tokens(4, 12, seed=2)
    _, state = one_segment(model, tokens_BL[:, :7], targets_BL[:, :7])
    together, after = one_segment(model, tokens_BL[:, 7:], targets_BL[:, 7:], state)
    parts = [slice(0, 1), slice(1, 4)]
    apart = [
        one_segment(model, tokens_BL[lanes, 7:], targets_BL[lanes, 7:], slice_lanes(state, lanes)) for lanes in parts
    ]
    assert_close(torch.cat([nll for nll, _ in apart]), together, 1e-12)
    for joined, whole in zip(tensors(join_lanes([state for _, state in apart])), tensors(after)):
        assert_close(joined, whole, 1e-12)


@torch.no_grad()
@EVERY_MODEL
def test_lanes_are_independent_and_their_order_is_free(name):
    model, tokens_BL, targets_BL = build(name), random_tokens(4, 12, seed=1), random_tokens(4, 12, seed=2)
    nll_BL, _ = run_segments(model, tokens_BL, targets_BL, [5, 7])
    order = torch.tensor([2, 0, 3, 1])
    assert_close(run_segments(model, tokens_BL[order], targets_BL[order], [5, 7])[0], nll_BL[order], 1e-12)
    other_BL = torch.cat([(tokens_BL[:1] + 1) % VOCABULARY, tokens_BL[1:]])
    changed_BL, _ = run_segments(model, other_BL, targets_BL, [5, 7])
    assert_close(changed_BL[1:], nll_BL[1:], 1e-12)
    assert (changed_BL[0] - nll_BL[0]).abs().min() > 1e-6


@torch.no_grad()
@EVERY_MODEL
@pytest.mark.parametrize("position", [0, 3, 4, 9])
def test_a_token_changes_its_own_and_later_losses_only(name, position):
    model, tokens_BL, targets_BL = build(name), random_tokens(2, 10, seed=1), random_tokens(2, 10, seed=2)
    nll_BL, _ = run_segments(model, tokens_BL, targets_BL, [4, 6])
    changed_BL = tokens_BL.clone()
    changed_BL[:, position] = (changed_BL[:, position] + 1) % VOCABULARY
    difference_BL = (run_segments(model, changed_BL, targets_BL, [4, 6])[0] - nll_BL).abs()
    assert_close(difference_BL[:, :position], torch.zeros_like(difference_BL[:, :position]), 1e-12)
    assert difference_BL[:, position].min() > 1e-6
    # Past the border of segments too: the state carries it on.
    assert difference_BL[:, min(position + 1, 9)].min() > 1e-9


@EVERY_MODEL
def test_the_state_is_attached_until_it_is_detached_and_is_not_changed_by_a_call(name):
    model, tokens_BL, targets_BL = MODELS[name]().train(), random_tokens(2, 10, seed=1), random_tokens(2, 10, seed=2)
    _, state = one_segment(model, tokens_BL[:, :5], targets_BL[:, :5])
    before = [x.clone() for x in tensors(state)]
    nll_BT, after = one_segment(model, tokens_BL[:, 5:], targets_BL[:, 5:], state)
    nll_BT.sum().backward()
    assert before and any(x.requires_grad for x in tensors(after))
    assert not any(x.requires_grad for x in [*tensors(detach(state)), *tensors(model.initial_state(2))])
    assert all(torch.equal(x, y) for x, y in zip(tensors(state), before))


@EVERY_MODEL
def test_dropout_is_for_training_only(name):
    model, tokens_BL, targets_BL = MODELS[name](dropout=0.5), random_tokens(2, 6, seed=1), random_tokens(2, 6, seed=2)
    without = one_segment(MODELS[name]().train(), tokens_BL, targets_BL)[0]
    torch.manual_seed(0)
    assert torch.equal(one_segment(model.eval(), tokens_BL, targets_BL)[0], without)
    first, second = (one_segment(model.train(), tokens_BL, targets_BL)[0] for _ in range(2))
    assert not torch.equal(first, second)


@given(st.lists(st.integers(1, 3), min_size=1, max_size=4))
def test_slices_of_any_nested_state_join_to_the_whole(sizes):
    B = sum(sizes)
    state = {"h": (torch.rand(B, 2), [torch.rand(B, 3, 1)]), "step": torch.arange(B)}
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    joined = join_lanes([slice_lanes(state, slice(start, start + size)) for start, size in zip(starts, sizes)])
    assert joined.keys() == state.keys() and type(joined["h"]) is tuple and type(joined["h"][1]) is list
    assert all(torch.equal(x, y) for x, y in zip(tensors(joined), tensors(state), strict=True))


@pytest.mark.parametrize("name", ["lstm", *MIXERS])
def test_states_are_float32_in_16_bits(name):
    model = tiny_lstm(torch.float32) if name == "lstm" else tiny_stack(torch.float32, layers=[name])
    with torch.autocast("cpu", torch.bfloat16):
        _, state = run_segments(model, random_tokens(2, 5), random_tokens(2, 5), [3, 2])
    seen = set()
    map_state(lambda x: seen.add(x.dtype), state)
    assert seen == {torch.float32}


def test_an_lstm_in_16_bits_is_that_of_float32_until_the_softmax():
    model, tokens_BT = tiny_lstm(torch.float32), random_tokens(2, 7)
    with torch.no_grad():
        exact, _ = model.hidden(tokens_BT, model.initial_state(2))
        with torch.autocast("cpu", torch.bfloat16):
            found, _ = model.hidden(tokens_BT, model.initial_state(2))
    assert torch.equal(found, exact)


@pytest.mark.parametrize("documents", [False, True])
def test_an_lstm_gets_states_that_are_no_views_which_cudnn_refuses(documents, monkeypatch):
    forward, model, tokens_BT = nn.LSTM.forward, tiny_lstm(n_layer=3), random_tokens(2, 7)
    seen = []

    def strict(self, x_BTD, state):
        seen.extend(x.is_contiguous() for x in state)
        return forward(self, x_BTD, state)

    monkeypatch.setattr(nn.LSTM, "forward", strict)
    starts_BT = tokens_BT % 3 == 0 if documents else None
    _, state = model.hidden(tokens_BT, model.initial_state(2))
    model.hidden(tokens_BT, state, starts_BT)
    assert len(seen) >= 12 and all(seen)

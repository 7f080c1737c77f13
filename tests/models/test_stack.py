"""A stack does not see how a stream is cut: losses, and gradients through attached states, whatever its mixers."""

from functools import cache

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tbptt.cli.config import as_dict
from tbptt.cli.directories import without_neutral
from tbptt.errors import UserError
from tbptt.models.attention.choice import Attention
from tbptt.models.mixers import AttentionConfig, GatedDeltaConfig, RelativeAttentionConfig
from tbptt.models.protocol import detach, map_state
from tbptt.models.stack import StackConfig
from tests.helpers import assert_close, assert_relatively_close
from tests.models.tiny import MIXERS, random_tokens, run_segments, tiny_lstm, tiny_stack, tiny_txl

EVERY_MIXER = pytest.mark.parametrize("mixer", MIXERS)
CUTS = st.lists(st.integers(1, 7), min_size=1, max_size=5)
build = cache(lambda mixer: tiny_stack(layers=[mixer]))


def losses_and_gradients(model, tokens_BL, lengths):
    """Of a window: the state stays attached from segment to segment."""
    model.zero_grad()
    nll_BL, state = run_segments(model, tokens_BL[:, :-1], tokens_BL[:, 1:], lengths)
    nll_BL.mean().backward()
    return [nll_BL.detach(), *(parameter.grad.clone() for parameter in model.parameters())], state


@EVERY_MIXER
@given(CUTS)
def test_attached_segments_are_one_long_segment(mixer, lengths):
    tokens_BL = random_tokens(2, sum(lengths) + 1)
    whole, _ = losses_and_gradients(build(mixer), tokens_BL, [sum(lengths)])
    pieces, _ = losses_and_gradients(build(mixer), tokens_BL, lengths)
    assert_close(pieces[0], whole[0], 1e-12)
    for ours, expected in zip(pieces[1:], whole[1:], strict=True):
        assert_relatively_close(ours, expected, 1e-8)


@pytest.mark.parametrize(
    "model", [tiny_lstm(), tiny_txl(mem_len=20), tiny_txl(mem_len=20, pre_lnorm=True)], ids=["lstm", "txl", "pre_norm"]
)
def test_so_are_those_of_other_models_as_far_as_their_memory_reaches(model):
    tokens_BL = random_tokens(2, 13)
    whole, _ = losses_and_gradients(model, tokens_BL, [12])
    pieces, _ = losses_and_gradients(model, tokens_BL, [3, 1, 5, 3])
    for ours, expected in zip(pieces, whole, strict=True):
        assert_relatively_close(ours, expected, 1e-10)


@EVERY_MIXER
def test_a_detached_state_stops_the_gradient_and_a_state_is_never_overwritten(mixer):
    model, tokens_BL = build(mixer), random_tokens(2, 13)
    _, state = run_segments(model, tokens_BL[:, :6], tokens_BL[:, 1:7], [6])
    before = map_state(torch.clone, state)
    model.zero_grad()
    nll_BT, _ = model(tokens_BL[:, 6:-1], tokens_BL[:, 7:], detach(state))
    nll_BT.mean().backward()
    map_state(lambda x, y: assert_close(x, y, 0) or x, state, before)
    stopped = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    nll_BT, _ = model(tokens_BL[:, 6:-1], tokens_BL[:, 7:], state)
    nll_BT.mean().backward()
    assert any(not torch.equal(p.grad, ours) for p, ours in zip(model.parameters(), stopped))


@EVERY_MIXER
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_states_are_kept_in_full_precision(mixer, dtype):
    model, tokens_BL = tiny_stack(dtype, layers=[mixer]), random_tokens(2, 9)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.float32):
        nll_BT, state = model(tokens_BL[:, :-1], tokens_BL[:, 1:], model.initial_state(2))
    nll_BT.mean().backward()
    dtypes = set()
    map_state(lambda x: dtypes.add(x.dtype) or x, state)
    assert dtypes == {dtype} and nll_BT.isfinite().all()


@EVERY_MIXER
def test_recomputed_activations_change_nothing(mixer):
    tokens_BL, found = random_tokens(2, 9), []
    for checkpointing in (False, True):
        model = tiny_stack(checkpointing=checkpointing, layers=[mixer], dropout=0.3).train()
        torch.manual_seed(3)
        found.append(losses_and_gradients(model, tokens_BL, [5, 3])[0])
    for ours, expected in zip(*found, strict=True):
        assert_close(ours, expected, 1e-12)


def test_layers_repeat():
    names = [type(layer.mixer).__name__ for layer in tiny_stack(layers=["gla", "lstm"], n_layer=5).layers]
    assert names == ["GLA", "LSTMMixer", "GLA", "LSTMMixer", "GLA"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"layers": []}, "model.layers=\\[\\] must be a list of mixers"),
        ({"layers": ["gru"]}, "gru.*gated_delta, mamba2"),
        ({"logit_cap": 0.0}, "model.logit_cap=0.0 must be a positive"),
        ({"norm_after": ["lstm"]}, "model.norm_after=\\['lstm'\\] must be mixers of model.layers"),
        ({"embedding_scale": 2.0}, "model.embedding_scale=2.0 is only for model.scale_embedding=true"),
        ({"layers": ["rg_lru"], "d_model": 6, "d_embed": 6}, "model.d_model=6 must be a multiple"),
        ({"layers": ["relative_attention"], "d_model": 7}, "model.d_model=7 must be even"),
        (
            {"gated_delta": GatedDeltaConfig(n_head=2, n_value_head=3)},
            "model.gated_delta.n_value_head=3 must be a multiple of model.gated_delta.n_head=2",
        ),
        ({"gated_delta": GatedDeltaConfig(n_value_head=0)}, "model.gated_delta.n_value_head=0 must be 1 or more"),
        (
            {"layers": ["attention"], "attention": AttentionConfig(n_head=4, n_kv_head=3)},
            "model.attention.n_head=4 must be a multiple of model.attention.n_kv_head=3",
        ),
        (
            {"layers": ["attention"], "attention": AttentionConfig(n_kv_head=0)},
            "model.attention.n_kv_head=0 must be 1 or more",
        ),
    ],
)
def test_impossible_stacks_are_refused(settings, words):
    with pytest.raises(UserError, match=words):
        StackConfig(**settings).check(30)


@pytest.mark.parametrize(
    ("layers", "settings", "words"),
    [
        (
            ["gla", "lstm"],
            {"mem_len": 3},
            r"eval\.mem_len=3 does not apply to a model of the kind stack, .* fixed size",
        ),
        (["gla", "attention"], {"mem_len": 3, "same_length": True}, r"^eval\.same_length=True .* gla, attention$"),
        (["relative_attention"], {"mem_len": 0, "same_length": True}, r"eval\.mem_len=0 must be 1 or more"),
        (["attention", "relative_attention"], {"clamp_len": 0}, r"eval\.clamp_len=0 must be"),
    ],
)
def test_impossible_evaluations_are_refused(layers, settings, words):
    with pytest.raises(UserError, match=words):
        StackConfig(layers=layers).check_eval(settings)


def test_possible_evaluations_are_not():
    StackConfig(layers=["gla"]).check_eval({})
    StackConfig(layers=["gla", "attention"]).check_eval({"mem_len": 0})
    StackConfig(layers=["attention", "relative_attention"]).check_eval({"mem_len": 1, "same_length": True})


def test_a_run_may_go_on_with_another_implementation_of_attention():
    fused = RelativeAttentionConfig(attention=Attention.fused)
    chosen = [
        without_neutral(StackConfig, as_dict(config))
        for config in (StackConfig(relative_attention=fused), StackConfig())
    ]
    assert chosen[0] == chosen[1] and "mem_len" in chosen[0]["relative_attention"]


def test_a_mixer_that_no_layer_has_is_warned_of(caplog):
    tiny_stack(layers=["gla", "gla", "attention"], n_layer=2)
    assert "model.n_layer=2 leaves ['attention'] of model.layers=['gla', 'gla', 'attention'] unused" in caplog.text
    caplog.clear()
    tiny_stack(layers=["gla", "attention"], n_layer=3)
    assert not caplog.text

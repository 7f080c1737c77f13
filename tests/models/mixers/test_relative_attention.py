"""Relative attention in a stack is Transformer-XL's, whose layers a stack can be made of."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from tbptt.errors import UserError
from tbptt.models.attention.choice import Attention
from tbptt.models.feed_forward import FeedForwardKind
from tbptt.models.mixers import AttentionConfig, RelativeAttentionConfig
from tbptt.models.stack import Norm
from tests.helpers import assert_close, assert_relatively_close
from tests.models.tiny import random_tokens, run_segments, tiny_stack, tiny_txl

LENGTHS = [4, 1, 7, 2]
CONTEXTS = pytest.mark.parametrize(
    "context",
    [
        {"mem_len": 6},
        {"mem_len": 3, "clamp_len": 2},
        {"mem_len": 5, "same_length": True},
        {"mem_len": 20, "clamp_len": 4},
        {"mem_len": 0},
    ],
    ids=str,
)
# Names of a layer's parts in Transformer-XL, and here.
NAMES = {
    ".attention.": ".mixer.attention.", ".attention_norm.": ".mixer_norm.",
    ".content_bias_HE": ".mixer.content_bias_HE", ".position_bias_HE": ".mixer.position_bias_HE",
}  # fmt: skip


def ours(name: str) -> str:
    for theirs, here in NAMES.items():
        name = name.replace(theirs, here)
    return name


def relative_stack(dtype=torch.float64, layers=("relative_attention",) * 2, **settings):
    config = RelativeAttentionConfig(**{"n_head": 2, "d_head": 4} | settings)
    return tiny_stack(dtype, layers=list(layers), relative_attention=config, attention=AttentionConfig(2, None, 4, 3))


@torch.no_grad()
def pair(**context):
    """Transformer-XL and the stack of the same weights, as far as the two can be made the same.

    A stack's feed-forward has no biases; Transformer-XL has no norm behind its last layer.
    """
    txl = tiny_txl(pre_lnorm=True, untie_r=True, **context)
    stack = tiny_stack(
        layers=["relative_attention"] * 2, feed_forward=FeedForwardKind.relu, norm=Norm.layer, scale_embedding=True,
        relative_attention=RelativeAttentionConfig(n_head=2, d_head=4, **context),
    )  # fmt: skip
    stack.final_norm = nn.Identity()
    shared = {}
    for name, parameter in txl.named_parameters(remove_duplicate=False):
        if ".feed_forward." in name and name.endswith("bias"):
            parameter.zero_()
        else:
            shared[ours(name)] = parameter
    stack.load_state_dict(shared)
    return txl, stack, shared


@CONTEXTS
def test_a_stack_of_it_is_transformer_xl_gradients_through_memory_included(context):
    txl, stack, shared = pair(**context)
    tokens_BL, losses = random_tokens(3, sum(LENGTHS) + 1), []
    for model in (txl, stack):
        nll_BL, _ = run_segments(model, tokens_BL[:, :-1], tokens_BL[:, 1:], LENGTHS)
        nll_BL.mean().backward()
        losses.append(nll_BL)
    assert_close(losses[1], losses[0], 1e-12)
    for name, parameter in stack.named_parameters():
        assert_relatively_close(parameter.grad, shared[name].grad, 1e-12)


@torch.no_grad()
@CONTEXTS
def test_and_sees_as_far(context):
    txl, stack, _ = pair(**context)
    assert stack.any_segments() == txl.any_segments()
    assert [stack.reach(length) for length in (1, 4, 9)] == [txl.reach(length) for length in (1, 4, 9)]
    assert stack.cost(16)[1] == txl.cost(16)[1]
    assert {**stack.context(), "initial_memory": "empty"} == txl.context()


@torch.no_grad()
@pytest.mark.parametrize("length", [1, 3, 4])
@pytest.mark.parametrize("settings", [{"mem_len": 4}, {"mem_len": 3, "same_length": True}, {"mem_len": 0}], ids=str)
def test_nothing_older_than_its_reach_changes_a_loss(settings, length):
    model = relative_stack(layers=["relative_attention", "attention"], **settings)
    reach = model.reach(length)
    assert reach % length == 0
    tokens_BL = random_tokens(2, 2 * length + reach)
    lengths = [length] * (tokens_BL.shape[1] // length)
    from_the_start, _ = run_segments(model, tokens_BL, tokens_BL, lengths)
    burnt_in, _ = run_segments(model, tokens_BL[:, length:], tokens_BL[:, length:], lengths[1:])
    assert_close(burnt_in[:, -length:], from_the_start[:, -length:], 1e-12)


def test_without_same_length_it_sees_the_cut_and_says_so():
    tokens_BL, model = random_tokens(2, 16), relative_stack(mem_len=5)
    losses = [run_segments(model, tokens_BL, tokens_BL, lengths)[0] for lengths in ([16], [8, 8])]
    assert not model.any_segments() and (losses[0] - losses[1]).abs().max() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize(
    "choice, dtype, tolerance", [(Attention.plain, torch.float64, 1e-12), (Attention.fused, torch.float32, 1e-4)]
)
def test_a_state_for_inference_goes_on_like_the_state_itself(choice, dtype, tolerance):
    model, tokens_BL = relative_stack(dtype, attention=choice, mem_len=5), random_tokens(2, 8)
    nll_BL, state = run_segments(model, tokens_BL, tokens_BL, [3, 1, 4])
    other_BL, other = run_segments(model, tokens_BL, tokens_BL, [3, 1, 4], model.for_inference(model.initial_state(2)))
    assert_close(other_BL, nll_BL, tolerance)
    for found, part in zip(other, model.for_inference(state), strict=True):
        assert_close(found["memory"], part["memory"], tolerance)


def test_fused_is_plain_gradients_included():
    tokens_BL, found = random_tokens(2, 7), []
    for choice in (Attention.plain, Attention.fused):
        model = relative_stack(torch.float32, attention=choice, mem_len=5)
        assert model.notes() == [f"model.relative_attention.attention={choice.name}: attention is {choice.name}"]
        nll_BL, _ = run_segments(model, tokens_BL, tokens_BL, [4, 3])
        nll_BL.mean().backward()
        found.append([nll_BL.detach(), *(parameter.grad for parameter in model.parameters())])
    for plain, fused in zip(*found, strict=True):
        assert_relatively_close(fused, plain, 1e-4)


@torch.no_grad()
def test_the_context_is_of_every_layer_that_has_it_and_is_given_back():
    model = relative_stack(layers=["relative_attention", "attention", "gla"], mem_len=6)
    before = [layer.mixer.context() for layer in model.layers]
    assert before == [{"mem_len": 6, "clamp_len": -1, "same_length": False}, {"mem_len": 2}, {}]
    assert model.context() == before[0]
    with pytest.raises(ZeroDivisionError), model.with_context(mem_len=4, clamp_len=3):
        assert model.context() == {"mem_len": 4, "clamp_len": 3, "same_length": False}
        _, state = run_segments(model, *[random_tokens(2, 9)] * 2, [3, 6])
        assert [state[0]["memory"].shape[1], state[1]["keys_values"].shape[1]] == [4, 4]
        raise ZeroDivisionError
    for settings in ({"mem_len": -1}, {"mem_len": 0, "same_length": True}, {"tgt_len": 3}):
        with pytest.raises(UserError, match=next(iter(settings))), model.with_context(**settings):
            pass
    assert [layer.mixer.context() for layer in model.layers] == before


@torch.no_grad()
def test_a_window_without_limit_is_the_longest_of_all():
    model = relative_stack(layers=["attention", "relative_attention"])
    model.layers[0].mixer.set_context(mem_len=None)
    assert model.context()["mem_len"] is None and model.reach(4) is None


@torch.no_grad()
@pytest.mark.parametrize("mem_len", [0, 2, 9])
def test_a_window_of_attention_is_itself_and_the_tokens_it_remembers(mem_len):
    """A query changes with its own token and that `mem_len` before it, and not with the one before that."""
    model, tokens_BL = relative_stack(layers=["attention"]), random_tokens(1, 12)
    model.set_context(mem_len=mem_len)
    last = run_segments(model, tokens_BL, tokens_BL, [12])[0][:, -1]
    changes = []
    for position in range(12):
        changed_BL = tokens_BL.clone()
        changed_BL[:, position] = (changed_BL[:, position] + 1) % 30
        again = run_segments(model, changed_BL, tokens_BL, [12])[0][:, -1]
        changes.append((again - last).abs().item() > 1e-12)
    assert changes == [position >= 11 - mem_len for position in range(12)]
    assert all(earlier <= later for earlier, later in pairwise(changes))


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"mem_len": -1}, r"model\.relative_attention\.mem_len=-1 must be 0 or more"),
        ({"mem_len": 0, "same_length": True}, r"model\.relative_attention\.mem_len=0 must be 1 or more with"),
        ({"clamp_len": 0}, r"model\.relative_attention\.clamp_len=0"),
        ({"dropatt": 1.0}, r"model\.relative_attention\.dropatt=1\.0 must be a probability"),
        ({"d_head": 0}, r"model\.relative_attention\.d_head=0"),
    ],
)
def test_settings_that_cannot_work_are_refused_by_name(settings, words):
    with pytest.raises(UserError, match=words):
        relative_stack(**settings)

"""The options that pretrained stacks need compute what they say."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tbptt.models.mixers import AttentionConfig
from tbptt.models.mixers.attention import QueryKeyNorm
from tbptt.models.norms import Norm, PlusOneRMSNorm, make_norm
from tbptt.models.stack import FeedForward, FeedForwardKind
from tests.helpers import assert_close
from tests.models.tiny import random_tokens, run_segments, tiny_stack


def test_norms_after_the_branch_are_of_the_mixers_that_are_named():
    model, x_BTD = tiny_stack(norm_after=["attention"]), torch.randn(2, 5, 8, dtype=torch.float64)
    before, after = model.layers
    assert (before.norm_after, after.norm_after) == (False, True)
    for block in (before, after):
        state = block.mixer.initial_state(2)
        y_BTD, _ = block(x_BTD, state)
        mixed_BTD, _ = block.mixer(x_BTD if block is after else block.mixer_norm(x_BTD), state)
        h_BTD = x_BTD + (block.mixer_norm(mixed_BTD) if block is after else mixed_BTD)
        norm, inner = block.feed_forward_norm, block.feed_forward
        expected = h_BTD + (norm(inner(h_BTD)) if block is after else inner(norm(h_BTD)))
        assert_close(y_BTD, expected, 1e-14)


def test_a_stack_with_norms_after_the_branch_does_not_see_how_a_stream_is_cut():
    model, tokens_BL = tiny_stack(norm_after=["attention", "gated_delta"]), random_tokens(2, 13)
    whole, pieces = (run_segments(model, tokens_BL[:, :-1], tokens_BL[:, 1:], cut)[0] for cut in ([12], [5, 1, 6]))
    assert_close(pieces, whole, 1e-12)


def test_one_is_added_to_the_weights_of_a_norm():
    x_BD, norm = torch.randn(3, 6, dtype=torch.float64), make_norm(Norm.rms_plus_one, 6, 1e-3).double()
    assert isinstance(norm, PlusOneRMSNorm)
    assert_close(norm(x_BD), F.rms_norm(x_BD, (6,), eps=1e-3), 1e-14)  # the weights start at 0
    nn.init.normal_(norm.weight)
    assert_close(norm(x_BD), F.rms_norm(x_BD, (6,), 1 + norm.weight, 1e-3), 1e-14)


def test_a_small_weight_of_such_a_norm_is_not_rounded_away():
    norm = make_norm(Norm.rms_plus_one, 1, 1e-6)
    nn.init.constant_(norm.weight, 1e-12)
    y = norm.double()(torch.ones(1, dtype=torch.float64)) / F.rms_norm(
        torch.ones(1, dtype=torch.float64), (1,), eps=1e-6
    )
    assert (y - 1).item() == pytest.approx(1e-12, rel=1e-3)


def attention(**settings):
    return AttentionConfig(n_head=2, n_kv_head=1, d_head=4, **settings).build(8, 0, 1).double()


def test_one_is_added_to_the_weights_of_a_heads_norm():
    plain, plus_one = (attention(qk_norm=kind) for kind in (QueryKeyNorm.head, QueryKeyNorm.head_plus_one))
    plus_one.load_state_dict(plain.state_dict())
    with torch.no_grad():
        for name in ("query_norm_weight", "key_norm_weight"):
            plus_one.get_parameter(name).normal_()
            plain.get_parameter(name).copy_(1 + plus_one.get_parameter(name))
    x_BTD = torch.randn(2, 5, 8, dtype=torch.float64)
    assert_close(plus_one(x_BTD, plus_one.initial_state(2))[0], plain(x_BTD, plain.initial_state(2))[0], 1e-12)
    plus_one.reset_parameters()
    assert not plus_one.query_norm_weight.any() and not plus_one.key_norm_weight.any()


def test_the_last_map_of_attention_may_have_a_bias():
    biased, x_BTD = attention(output_bias=True), torch.randn(2, 5, 8, dtype=torch.float64)
    biased.reset_parameters()
    before, _ = biased(x_BTD, biased.initial_state(2))  # the bias starts at 0
    nn.init.normal_(biased.output.bias)
    assert_close(biased(x_BTD, biased.initial_state(2))[0], before + biased.output.bias, 1e-12)
    assert attention().output.bias is None


@pytest.mark.parametrize("kind", [FeedForwardKind.relu, FeedForwardKind.geglu])
def test_feed_forward_layers_may_have_biases(kind):
    layer = FeedForward(3, 5, kind, bias=True)
    maps = [layer.inner, layer.outer] + ([layer.gate] if layer.gated else [])
    assert all(each.bias is not None for each in maps)
    assert all(parameter.dim() == 2 for parameter in FeedForward(3, 5, kind, bias=False).parameters())
    model = tiny_stack(feed_forward=kind, feed_forward_bias=True)
    model.reset_parameters()
    biases = [
        parameter for name, parameter in model.layers.named_parameters() if "feed_forward" in name and "bias" in name
    ]
    assert len(biases) == 2 * len(maps) and not any(bias.any() for bias in biases)


def test_the_factor_of_embeddings_may_be_given():
    ids, vectors = random_tokens(1, 4), []
    for settings in ({}, {"scale_embedding": True}, {"scale_embedding": True, "embedding_scale": 2.5}):
        vectors.append(tiny_stack(**settings).embedding(ids))
    assert_close(vectors[1], vectors[0] * 8**0.5, 1e-12)
    assert_close(vectors[2], vectors[0] * 2.5, 1e-12)

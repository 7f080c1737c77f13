"""The losses of a linear layer are those of its logits, gradients too, in any number of chunks."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from tbptt.models import alignment
from tbptt.models.vocabulary import linear_cross_entropy as module
from tbptt.models.vocabulary.linear_cross_entropy import linear_cross_entropy
from tests.helpers import assert_close, assert_relatively_close


def draw_inputs(N: int, E: int, V: int, dtype=torch.float64, spread: float = 1.0):
    generator = torch.Generator().manual_seed(N + 10 * E + 100 * V)
    x, weight, bias = (torch.randn(*size, generator=generator, dtype=dtype) for size in ((N, E), (V, E), (V,)))
    targets = torch.randint(V, (N,), generator=generator)
    return (spread * x).requires_grad_(), weight.requires_grad_(), bias.requires_grad_(), targets


def plain(x, weight, bias, targets):
    return F.cross_entropy(F.linear(x, weight, bias), targets, reduction="none")


def loss_and_gradients(function, x, weight, bias, targets):
    nll_N = function(x, weight, bias, targets)
    weights_N = torch.linspace(0.1, 1, len(targets), dtype=nll_N.dtype)  # every token's loss counts differently
    return [nll_N.detach(), *torch.autograd.grad((nll_N * weights_N).sum(), (x, weight, bias))]


@given(st.integers(0, 9), st.integers(1, 5), st.integers(1, 60), st.integers(1, 600), st.sampled_from([1, 16]))
def test_losses_and_gradients_are_the_plain_ones_whatever_the_chunks_and_the_alignment(N, E, V, logits, multiple):
    inputs = draw_inputs(N, E, V)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MAX_LOGITS", logits)
        patch.setitem(alignment.ALIGNMENT, "cpu", multiple)
        ours = loss_and_gradients(linear_cross_entropy, *inputs)
    for actual, expected in zip(ours, loss_and_gradients(plain, *inputs)):
        assert_close(actual, expected, 1e-12)


@pytest.mark.parametrize("logits", [20, 2**25])
def test_a_target_of_vanishing_probability_has_a_finite_loss(monkeypatch, logits):
    monkeypatch.setattr(module, "MAX_LOGITS", logits)
    *inputs, targets = draw_inputs(6, 4, 9, torch.float32, spread=1e4)
    whole = [x.detach().round().requires_grad_() for x in inputs]  # logits without rounding, in whatever order of sums
    ours, expected = (loss_and_gradients(function, *whole, targets) for function in (linear_cross_entropy, plain))
    assert expected[0].max() > 1e3
    for actual, wanted in zip(ours, expected):
        assert_relatively_close(actual, wanted, 1e-6)


@pytest.mark.parametrize("few", [0, 128])
@pytest.mark.parametrize("logits", [20, 2**25])
def test_under_autocast_only_the_products_are_lowered(monkeypatch, logits, few):
    monkeypatch.setattr(module, "MAX_LOGITS", logits)
    monkeypatch.setattr(module, "FEW_TOKENS_CPU", few)
    inputs = draw_inputs(50, 8, 12, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        ours, expected = (loss_and_gradients(function, *inputs) for function in (linear_cross_entropy, plain))
    assert [x.dtype for x in ours] == [torch.float32] * 4
    for actual, wanted in zip(ours, expected):
        assert_relatively_close(actual, wanted, 0.01)


@pytest.mark.parametrize("logits, kept", [(40, False), (120, True)])
def test_no_more_logits_are_kept_than_a_chunk_has(monkeypatch, logits, kept):
    monkeypatch.setattr(module, "MAX_LOGITS", logits)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x.numel()) or x, lambda x: x):
        linear_cross_entropy(*draw_inputs(10, 2, 12))
    assert (max(saved) == 120) is kept and max(saved) <= max(logits, 24)


def test_an_evaluation_has_one_precision_for_any_number_of_tokens():
    x_NE, weight_VE, bias_V, targets_N = draw_inputs(300, 64, 500, torch.float32)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        whole = linear_cross_entropy(x_NE, weight_VE, bias_V, targets_N)
        pieces = [linear_cross_entropy(x, weight_VE, bias_V, t) for x, t in zip(x_NE.split(5), targets_N.split(5))]
    differ = (torch.cat(pieces) - whole).abs() > 1e-5 * whole
    assert differ.double().mean() < 0.05  # sums in another order may round a logit to its neighbour

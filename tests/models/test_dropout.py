"""Dropout on a processor zeroes its share at random, keeps the mean, and follows torch's generator alone."""

import math

import pytest
import torch

from tbptt.models.dropout import Dropout, fast_dropout, relu_dropout


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("rate", [0.01, 0.3, 0.9])
def test_entries_are_dropped_at_the_rate_and_the_others_enlarged(rate, dtype):
    torch.manual_seed(0)
    x = torch.ones(300, 301, dtype=dtype)
    y = fast_dropout(x, rate)
    assert set(y.unique().tolist()) == {0.0, torch.tensor(1 / (1 - rate), dtype=dtype).item()}
    n, dropped = y.numel(), int((y == 0).sum())
    assert abs(dropped - rate * n) < 4 * math.sqrt(n * rate * (1 - rate))


def test_a_rate_between_two_that_16_bits_express_is_met_on_the_average():
    torch.manual_seed(0)
    x, rate, masks = torch.ones(2**18), 1.5 / 2**16, 200
    dropped = sum(int((fast_dropout(x, rate) == 0).sum()) for _ in range(masks))
    expected = masks * len(x) * rate
    spread = math.sqrt(expected + masks * (len(x) / 2**16 / 2) ** 2)  # of entries, and of the masks' two rates
    assert abs(dropped - expected) < 4 * spread < expected / 4


@pytest.mark.parametrize("rate", [1e-9, 1 - 1e-9])
def test_rates_near_the_ends_drop_next_to_nothing_or_all(rate):
    share = (fast_dropout(torch.ones(1000), rate) == 0).double().mean()
    assert abs(share - rate) < 0.01


def test_neighbours_are_dropped_independently():
    torch.manual_seed(0)
    kept = fast_dropout(torch.ones(200_000), 0.5) > 0
    for step in (1, 2, 3, 64):
        together = (kept[step:] & kept[:-step]).double().mean().item()
        assert abs(together - 0.25) < 4 * math.sqrt(0.25 * 0.75 / len(kept))


def test_the_gradient_passes_where_the_value_did():
    x = torch.randn(7, 9, requires_grad=True)
    y = fast_dropout(x, 0.4)
    y.sum().backward()
    assert torch.equal(y, x * x.grad)
    assert (y == 0).any() and (y != 0).any()


@pytest.mark.parametrize("rate", [0.0, 0.4])
def test_after_a_relu_values_and_gradients_are_those_of_dropout_of_relu(rate):
    x = torch.randn(70, 9, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(70, 9, dtype=torch.float64)
    found = []
    for function in (relu_dropout, lambda x, rate: fast_dropout(x.relu(), rate)):
        torch.manual_seed(2)
        y = function(x, rate)
        found.append((y, *torch.autograd.grad((y * weight).sum(), x)))
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))


def test_the_same_seed_draws_the_same_mask_and_no_two_calls_do():
    torch.manual_seed(1)
    first, second = fast_dropout(torch.ones(99), 0.5), fast_dropout(torch.ones(99), 0.5)
    torch.manual_seed(1)
    assert torch.equal(fast_dropout(torch.ones(99), 0.5), first) and not torch.equal(first, second)


def test_nothing_is_dropped_or_drawn_in_evaluation_or_at_rate_zero():
    x, before = torch.randn(5), torch.get_rng_state()
    assert Dropout(0.5).eval()(x) is x and Dropout(0.0).train()(x) is x
    assert torch.equal(torch.get_rng_state(), before)

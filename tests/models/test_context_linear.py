"""A linear layer over memory and segment is the one over both together, and spares a memory without gradient."""

import pytest
import torch

from tbptt.models.attention.context_linear import context_linear
from tests.helpers import assert_close, assert_relatively_close


def draw_inputs(M: int, dtype=torch.float64) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(M)
    sizes = (2, M, 3), (2, 4, 3), (5, 3)
    return [torch.randn(size, generator=generator, dtype=dtype).requires_grad_() for size in sizes]


def plain(memory, x, weight):
    return torch.cat([memory, x], dim=1) @ weight.t()


@pytest.mark.parametrize("M", [0, 1, 6])
def test_values_and_gradients_are_those_of_the_whole_context(M):
    inputs = draw_inputs(M)
    expected = plain(*inputs)
    y = context_linear(*inputs)
    assert_close(y, expected, 1e-14)
    dy = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)
    for actual, wanted in zip(torch.autograd.grad(y, inputs, dy), torch.autograd.grad(expected, inputs, dy)):
        assert_close(actual, wanted, 1e-14)


def test_no_product_is_made_for_a_memory_that_wants_no_gradient():
    counts = []
    for wanted in (True, False):
        memory, x, weight = draw_inputs(4)
        y = context_linear(memory.requires_grad_(wanted) if wanted else memory.detach(), x, weight)
        with torch.profiler.profile() as profiled:
            y.sum().backward()
        counts.append(sum(event.count for event in profiled.key_averages() if event.key in ("aten::mm", "aten::bmm")))
        assert x.grad is not None and (memory.grad is not None) is wanted
    assert counts == [3, 2]


def test_under_autocast_products_are_lowered_as_a_linear_layers_are():
    inputs = draw_inputs(3, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        y, expected = context_linear(*inputs), plain(*inputs)
    assert y.dtype == expected.dtype == torch.bfloat16
    dy = torch.ones_like(y)
    for actual, wanted in zip(torch.autograd.grad(y, inputs, dy), torch.autograd.grad(expected, inputs, dy)):
        assert actual.dtype == torch.float32
        assert_relatively_close(actual, wanted, 0.01)

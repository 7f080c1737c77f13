"""Norms on a processor are their definitions: values and gradients."""

import pytest
import torch
from torch.nn import functional as F

from tbptt.models.norms import rms_norm, unit_length
from tests.helpers import assert_close


@pytest.mark.parametrize("shape", [(5,), (3, 7), (2, 3, 4), (2, 3, 2, 6)])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_few_passes_are_torchs_norm(shape, transposed, weighted):
    torch.manual_seed(1)
    x = torch.randn(shape, dtype=torch.float64)
    x = (x.transpose(0, -2) if transposed and len(shape) > 2 else x).requires_grad_()
    weight = torch.randn(shape[-1:], dtype=torch.float64, requires_grad=True) if weighted else None
    dy, inputs = torch.randn_like(x), [x] if weight is None else [x, weight]
    ours, theirs = rms_norm(x, weight, 1e-3), F.rms_norm(x, shape[-1:], weight, 1e-3)
    assert_close(ours, theirs, 1e-14)
    for found, expected in zip(torch.autograd.grad(ours, inputs, dy), torch.autograd.grad(theirs, inputs, dy)):
        assert_close(found, expected, 1e-13)


def test_vectors_of_length_one():
    x = torch.randn(3, 5, 4, dtype=torch.float64).transpose(0, 1).requires_grad_()
    dy = torch.randn_like(x)
    ours, definition = unit_length(x, 1e-3), x / (x.square().sum(-1, keepdim=True) + 1e-3).sqrt()
    assert_close(ours, definition, 1e-14)
    gradients = (torch.autograd.grad(y, x, dy)[0] for y in (ours, definition))
    assert_close(*gradients, 1e-13)


def test_nothing_divides_by_zero():
    x = torch.zeros(2, 4, requires_grad=True)
    y = rms_norm(x, torch.ones(4), 1e-5)
    y.sum().backward()
    assert not y.any() and x.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bits_are_normalised_in_the_dtype_of_the_weight(dtype):
    x, weight = torch.randn(3, 8).to(dtype), torch.randn(8)
    assert torch.equal(rms_norm(x, weight, 1e-5), rms_norm(x.float(), weight, 1e-5))

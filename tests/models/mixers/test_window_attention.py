"""Attention to a window of keys is the same in blocks of queries as in one call with a mask: outputs and gradients."""

import pytest
import torch
from torch.nn import functional as F

from tbptt.models.mixers.attention import window_attention
from tests.helpers import assert_close


@pytest.mark.parametrize("window", [1, 4, 7, None])
@pytest.mark.parametrize("length", [1, 5, 14, 15, 29])
@pytest.mark.parametrize("memory", [0, 2, 6])
def test_blocks_are_one_call_with_a_mask(length, memory, window):
    torch.manual_seed(1)
    q, weight = torch.randn(2, 2, 3, length, 4, dtype=torch.float64)
    k, v = torch.randn(2, 2, 3, memory + length, 4, dtype=torch.float64)
    inputs = [x.requires_grad_() for x in (q, k, v)]
    distance = torch.arange(memory, memory + length)[:, None] - torch.arange(memory + length)
    mask = (distance >= 0) & (distance < (window or memory + length + 1))
    found, expected = window_attention(q, k, v, window), F.scaled_dot_product_attention(q, k, v, mask)
    assert_close(found, expected, 1e-12)
    gradients = [torch.autograd.grad((weight * y).sum(), inputs) for y in (found, expected)]
    for ours, theirs in zip(*gradients):
        assert_close(ours, theirs, 1e-12)

"""Attention to a window of keys is the same in pieces of queries as in one call with a mask: outputs and gradients."""

import pytest
import torch
from torch.nn import functional as F

from tbptt.models.mixers import attention
from tests.helpers import assert_close


@pytest.mark.parametrize("documents", [False, True])
@pytest.mark.parametrize("smallest", [1, 3])
@pytest.mark.parametrize("window", [1, 4, 7, 10, None])
@pytest.mark.parametrize("length", [1, 5, 14, 15, 29])
@pytest.mark.parametrize("memory", [0, 2, 6])
def test_pieces_are_one_call_with_a_mask(length, memory, window, smallest, documents, monkeypatch):
    monkeypatch.setattr(attention, "SMALLEST_PIECE", smallest)
    torch.manual_seed(1)
    q, weight = torch.randn(2, 2, 3, length, 4, dtype=torch.float64)
    k, v = torch.randn(2, 2, 3, memory + length, 4, dtype=torch.float64)
    inputs = [x.requires_grad_() for x in (q, k, v)]
    distance = torch.arange(memory, memory + length)[:, None] - torch.arange(memory + length)
    mask = (distance >= 0) & (distance < (window or memory + length + 1))
    since_BT = torch.randint(memory + length, (2, length)) if documents else None
    if since_BT is not None:
        mask = mask & (distance <= since_BT[:, None, :, None])
    found = attention.window_attention(q, k, v, window, since_BT)
    expected = F.scaled_dot_product_attention(q, k, v, mask)
    assert_close(found, expected, 1e-12)
    gradients = [torch.autograd.grad((weight * y).sum(), inputs) for y in (found, expected)]
    for ours, theirs in zip(*gradients):
        assert_close(ours, theirs, 1e-12)


def test_pieces_are_as_many_as_windows(monkeypatch):
    """Otherwise the test above might compare one call with itself."""
    calls, real = [], F.scaled_dot_product_attention
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *x: calls.append(x[1].shape[2]) or real(*x))
    q, k = torch.zeros(1, 1, 1024, 4), torch.zeros(1, 1, 1151, 4)
    attention.window_attention(q, k, k, 128)
    assert len(calls) == 16 and max(calls) <= 192

"""The norm of all gradients is that of all their entries together."""

import pytest
import torch

from tbptt.training import gradient_norm
from tests.helpers import assert_close


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("large", [1, 8, 10**6])
def test_it_is_that_of_all_entries(threads, large, monkeypatch):
    monkeypatch.setattr(gradient_norm, "LARGE", large)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    gradients = [torch.randn(shape, dtype=torch.float64) for shape in ((4, 3), (5,), (), (7, 2), (0,))]
    gradients.append(torch.randn(6, 4, dtype=torch.float64).t())
    assert_close(gradient_norm.total_norm(gradients), torch.cat([x.flatten() for x in gradients]).norm(), 1e-12)

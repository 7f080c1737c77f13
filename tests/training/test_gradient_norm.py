"""The norm of all gradients is that of all their entries together."""

import pytest
import torch

from tbptt.training import gradient_norm
from tests.helpers import assert_close


@pytest.mark.parametrize("parts", [1, 2, 3])
@pytest.mark.parametrize("large", [1, 8, 10**6])
def test_it_is_that_of_all_entries(parts, large, monkeypatch):
    monkeypatch.setattr(gradient_norm, "LARGE", large)
    monkeypatch.setattr(gradient_norm, "PARTS", parts)
    gradients = [torch.randn(shape, dtype=torch.float64) for shape in ((4, 3), (5,), (), (7, 2), (0,))]
    gradients.append(torch.randn(6, 4, dtype=torch.float64).t())
    assert_close(gradient_norm.total_norm(gradients), torch.cat([x.flatten() for x in gradients]).norm(), 1e-12)


def test_it_does_not_depend_on_the_number_of_threads():
    gradients, before = [torch.randn(2**20), torch.randn(1000, 300)], torch.get_num_threads()
    try:
        norms = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            norms.append(gradient_norm.total_norm(gradients).item())
    finally:
        torch.set_num_threads(before)
    assert norms[0] == norms[1] == norms[2]

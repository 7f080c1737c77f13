"""Aligned sizes are inside only: losses, states and gradients are those of the model's own sizes."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tbptt.models import alignment
from tbptt.models.alignment import aligned, aligned_linear, pad_to
from tbptt.models.attention.choice import Attention
from tbptt.models.protocol import map_state
from tests.helpers import assert_relatively_close
from tests.models.tiny import random_tokens, run_segments, tiny_lstm, tiny_txl

ODD = {"d_model": 10, "d_head": 5, "d_inner": 21, "cutoffs": [5, 12], "dropatt": 0.0}
MODELS = {
    "plain": (lambda: tiny_txl(**ODD), 1e-13),
    "pre_norm_projected": (lambda: tiny_txl(pre_lnorm=True, d_embed=7, div_val=2, **ODD), 1e-13),
    "checkpointed": (lambda: tiny_txl(checkpointing=True, **ODD), 1e-13),
    "fused": (lambda: tiny_txl(torch.float32, attention=Attention.fused, **ODD), 1e-5),
    "lstm": (lambda: tiny_lstm(d_model=10, cutoffs=[5, 12], d_embed=7, div_val=2), 1e-13),
}


@pytest.fixture
def align(monkeypatch):
    return lambda: monkeypatch.setitem(alignment.ALIGNMENT, "cpu", 16)


def outcome(model) -> dict[str, torch.Tensor]:
    """Losses, last state and gradients of three segments; losses of an inference state."""
    tokens_BL, targets_BL = random_tokens(3, 11, seed=1), random_tokens(3, 11, seed=2)
    nll_BL, state = run_segments(model, tokens_BL, targets_BL, [4, 4, 3])
    (nll_BL * torch.linspace(1, 2, nll_BL.numel(), dtype=nll_BL.dtype).view_as(nll_BL)).sum().backward()
    found = {"losses": nll_BL.detach()} | {name: p.grad.to_dense() for name, p in model.named_parameters()}
    map_state(lambda x: found.setdefault(f"state {len(found)}", x), state)
    with torch.no_grad():
        start = model.for_inference(model.initial_state(3))
        found["inference"], _ = run_segments(model, tokens_BL, targets_BL, [5, 6], start)
    return found


@pytest.mark.parametrize("name", MODELS)
def test_a_model_in_aligned_sizes_is_the_same_model(name, align):
    build, tolerance = MODELS[name]
    expected = outcome(build())
    align()
    found = outcome(build())
    assert found.keys() == expected.keys()
    for key, x in expected.items():
        assert x.isfinite().all() and x.norm() > 0, key
        assert_relatively_close(found[key], x, tolerance)


class Rows(TorchDispatchMode):
    """Remembers how far apart the rows of everything are that is multiplied, and of every product."""

    def __init__(self):
        super().__init__()
        self.strides = []

    def __torch_dispatch__(self, operation, types, arguments=(), settings=None):
        result = operation(*arguments, **(settings or {}))
        if operation._schema.name in ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm"):
            matrices = [x for x in (*arguments, result) if isinstance(x, torch.Tensor) and x.dim() > 1]
            self.strides += [max(x.stride()[-2:]) for x in matrices if min(x.shape[-2:]) > 1]
        return result


def test_every_row_that_is_multiplied_begins_at_a_multiple(align):
    model, tokens_BT = tiny_txl(torch.float32, attention=Attention.fused, **ODD), random_tokens(4, 4)
    odd = []
    for prepare in (lambda: None, align):
        prepare()
        with Rows() as rows:
            nll_BT, _ = model(tokens_BT, tokens_BT, tuple(torch.randn(4, 3, 10) for _ in range(2)))
            nll_BT.sum().backward()
        odd.append(sum(stride % 16 != 0 for stride in rows.strides))
    assert odd[0] > 20 and odd[1] == 0


def test_padding_adds_zeros_and_crops_the_gradient():
    x = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    y = pad_to(x, (4, 16), torch.float32)
    assert y.shape == (2, 4, 16) and y.dtype is torch.float32
    assert torch.equal(y[:, :3, :5], x.float()) and y.count_nonzero() == x.count_nonzero()
    assert torch.autograd.gradcheck(lambda x: pad_to(x, (4, 16), torch.float64), x)
    assert pad_to(x, (3, 5), torch.float64) is x


def test_the_padding_columns_of_a_layer_are_zeros(align):
    align()
    layer, x = torch.nn.Linear(5, 7), torch.randn(3, 5)
    y = aligned_linear(x, layer)
    assert y.shape == (3, 16) and not y[:, 7:].any()
    torch.testing.assert_close(y[:, :7], layer(x))
    assert [aligned(size, x.device) for size in (1, 16, 17, 410, 2100)] == [16, 16, 32, 416, 2112]

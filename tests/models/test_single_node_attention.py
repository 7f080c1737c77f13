"""Relative attention as a single node of the graph is the plain one: outputs, every gradient, and the same dropout."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tbptt.device import Precision, autocast
from tbptt.models.attention.choice import Attention
from tbptt.models.attention.relative import RelativeAttention, causal_mask
from tests.helpers import assert_close, assert_relatively_close

CPU = torch.device("cpu")
# As of fused attention: rounding of inputs, of weights and of results, each once.
TOLERANCE = {Precision.fp32: 1e-5, Precision.fp16: 2e-3, Precision.bf16: 1.5e-2}
SHAPES = {
    "B": st.integers(1, 3),
    "T": st.integers(1, 6),
    "M": st.integers(0, 6),
    "H": st.integers(1, 3),
    "E": st.integers(1, 5),
    "window": st.none() | st.integers(1, 8),
    "documents": st.booleans(),
    "dropatt": st.sampled_from([0.0, 0.3]),
    "seed": st.integers(0, 1000),
}


def results(choice, precision, B, T, M, H, E, window, documents, dropatt, seed) -> tuple[list[Tensor], str]:
    """The output, all gradients (inputs, memory, biases, weights), and what made the output."""
    torch.manual_seed(seed)
    dtype = torch.float64 if precision is Precision.fp64 else torch.float32
    layer = RelativeAttention(4, H, E, dropatt, choice).to(dtype)
    x_BTD, memory_BMD = torch.randn(B, T, 4, dtype=dtype), torch.randn(B, M, 4, dtype=dtype)
    inputs = x_BTD, memory_BMD, torch.randn(H, E, dtype=dtype), torch.randn(H, E, dtype=dtype)
    x_BTD, memory_BMD, *biases = (x.requires_grad_() for x in inputs)
    positions_KD, weight_BTD = torch.randn(M + T, 4, dtype=dtype), torch.randn(B, T, 4, dtype=dtype)
    since_BT = torch.randint(0, M + 2, (B, T)) if documents else None
    mask = causal_mask(T, M + T, window, x_BTD, since_BT)
    with autocast(CPU, precision):
        y_BTD, _ = layer(x_BTD, memory_BMD, positions_KD, *biases, window, since_BT, mask)
    of = [x_BTD, memory_BMD, *biases, *layer.parameters()]
    return [y_BTD, *torch.autograd.grad((y_BTD * weight_BTD).sum(), of)], type(y_BTD.grad_fn).__name__


@given(**SHAPES)
def test_it_is_the_plain_one(**shape):
    plain, _ = results(Attention.plain, Precision.fp64, **shape)
    single, node = results(Attention.auto, Precision.fp64, **shape)
    assert node == "SingleNodeAttentionBackward"
    for a, b in zip(plain, single, strict=True):
        assert_close(b, a, 1e-12)


@pytest.mark.parametrize("dropatt", [0.0, 0.3])
@pytest.mark.parametrize("precision", TOLERANCE)
def test_it_is_the_plain_one_up_to_rounding(precision, dropatt):
    shape = {
        "B": 3,
        "T": 17,
        "M": 11,
        "H": 2,
        "E": 16,
        "window": None,
        "documents": False,
        "dropatt": dropatt,
        "seed": 0,
    }
    plain, node = results(Attention.plain, Precision.fp32, **shape)
    single, _ = results(Attention.auto, precision, **shape)
    assert node != "SingleNodeAttentionBackward"  # who asks for the definition gets it
    for a, b in zip(plain, single, strict=True):
        assert_relatively_close(b.float(), a, TOLERANCE[precision])

"""The gated delta rule and its gradient are those of its definition, token by token."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from tbptt.models.mixers.delta_rule import gated_delta_rule
from tests.helpers import assert_close
from tests.models.mixers.loops import chunk_gated_delta_rule

B, H, K, V = 2, 3, 4, 5
GATES = st.sampled_from([0.0, 1e-30, 0.5, 1.0, 2.0])


def definition(q, k, v, log_decay, beta, S):
    inputs = {"q": q, "k": k, "v": v, "g": log_decay, "beta": beta}
    heads_second = {name: x.transpose(1, 2) for name, x in inputs.items()}
    o, S = chunk_gated_delta_rule(**heads_second, scale=1.0, initial_state=S, output_final_state=True)
    return o.transpose(1, 2), S


def draw(T: int, gate: float):
    """One token writes with the gate's strength, one forgets everything; the others are as in training."""
    generator = torch.Generator().manual_seed(T)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    q, k, v = normal(B, H, T, K), F.normalize(normal(B, H, T, K), dim=-1), normal(B, H, T, V)
    log_decay, beta = -normal(B, H, T).exp(), normal(B, H, T).sigmoid()
    beta[:, 0, T // 2] = gate
    log_decay[:, 1, T // 3] = -800
    return [x.requires_grad_() for x in (q, k, v, log_decay, beta, normal(B, H, K, V))]


@given(st.integers(1, 40), st.integers(1, 16), GATES)
def test_it_is_its_definition(T, chunk, gate):
    inputs = draw(T, gate)
    found, expected = gated_delta_rule(*inputs, chunk), definition(*inputs)
    given_gradients = [torch.sin(torch.arange(x.numel()).double()).view_as(x) for x in expected]
    for mine, theirs in zip(found, expected):
        assert_close(mine, theirs, 1e-12)
    gradients = [torch.autograd.grad(outputs, inputs, given_gradients) for outputs in (found, expected)]
    for mine, theirs in zip(*gradients):
        assert_close(mine, theirs, 1e-10)


def test_the_gradient_of_one_output_alone():
    """What is not read of a segment has no gradient, such as the last state of a text."""
    inputs = draw(9, 0.5)
    for which in range(2):
        mine, theirs = (
            torch.autograd.grad(form(*inputs)[which].sum(), inputs, materialize_grads=True)
            for form in (lambda *inputs: gated_delta_rule(*inputs, 4), definition)
        )
        for a, b in zip(mine, theirs):
            assert_close(a, b, 1e-10)

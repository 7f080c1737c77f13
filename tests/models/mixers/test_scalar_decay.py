"""The recurrence with scalar decays and its gradient are those of its definition, token by token."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from tbptt.models.mixers.scalar_decay import all_chunks_at_once, scalar_decay_attention
from tests.helpers import assert_close

B, K, V = 2, 3, 4


def draw(T: int, G: int, R: int) -> list[torch.Tensor]:
    """One token forgets everything; the others are as in training."""
    generator = torch.Generator().manual_seed(T)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    q, k, v, log_decay = normal(B, G, T, K), normal(B, G, T, K), normal(B, G * R, T, V), -normal(B, G * R, T).exp()
    log_decay[:, 0, T // 3] = -800
    return [x.requires_grad_() for x in (q, k, v, log_decay, normal(B, G * R, K, V))]


def token_by_token(q_BGTK, k_BGTK, v_BHTV, log_decay_BHT, S_BHKV):
    served, outputs = v_BHTV.shape[1] // q_BGTK.shape[1], []
    q_BHTK, k_BHTK = (x.repeat_interleave(served, dim=1) for x in (q_BGTK, k_BGTK))
    for q, k, v, log_decay in zip(*(x.unbind(2) for x in (q_BHTK, k_BHTK, v_BHTV, log_decay_BHT))):
        S_BHKV = S_BHKV * log_decay[..., None, None].exp() + k.unsqueeze(-1) * v.unsqueeze(-2)
        outputs.append((q.unsqueeze(-1) * S_BHKV).sum(-2))
    return torch.stack(outputs, 2), S_BHKV


@given(st.integers(1, 40), st.integers(1, 16), st.integers(1, 3), st.integers(1, 3))
def test_both_forms_are_the_recurrence(T, chunk, G, R):
    inputs = draw(T, G, R)
    expected = token_by_token(*inputs)
    given_gradients = [torch.sin(torch.arange(x.numel()).double()).view_as(x) for x in expected]
    theirs = [*expected, *torch.autograd.grad(expected, inputs, given_gradients)]
    for form in (scalar_decay_attention, all_chunks_at_once):
        found = form(*inputs, chunk)
        mine = [*found, *torch.autograd.grad(found, inputs, given_gradients)]
        for a, b in zip(mine, theirs, strict=True):
            assert_close(a, b, 1e-10)


def test_the_gradient_of_one_output_alone():
    """What is not read of a segment has no gradient, such as the last state of a text."""
    inputs = draw(9, 2, 2)
    for which in range(2):
        mine, theirs = (
            torch.autograd.grad(form(*inputs)[which].sum(), inputs, materialize_grads=True)
            for form in (lambda *inputs: scalar_decay_attention(*inputs, 4), token_by_token)
        )
        for a, b in zip(mine, theirs):
            assert_close(a, b, 1e-10)

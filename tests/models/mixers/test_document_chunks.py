"""Recurrences over packed documents are those of each document alone, for any chunks, however fast they decay."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from tbptt.models.documents import tokens_since_start
from tbptt.models.mixers.channel_decay import channel_decay_attention
from tbptt.models.mixers.delta_rule import gated_delta_rule
from tbptt.models.mixers.low_rank_decay import low_rank_decay
from tbptt.models.mixers.mlstm import mlstm_cell
from tbptt.models.mixers.scalar_decay import all_chunks_at_once, scalar_decay_attention
from tests.helpers import assert_close

B, H, T, K, V = 2, 2, 19, 3, 4


def mlstm(*inputs_chunk_since):
    *inputs, chunk, since_BT = inputs_chunk_since
    return mlstm_cell(*inputs, chunk, 1e-6, since_BT)


def rwkv7(r, k, v, w, rate, *state_chunk_since):
    return low_rank_decay(r, w, k, v, -k, k * rate, *state_chunk_since)


# Every recurrence, with the sizes of what it reads of a token after q, k and v, and of its state.
FORMS = {
    "scalar": (scalar_decay_attention, [()], [(K, V)]),
    "scalar_at_once": (all_chunks_at_once, [()], [(K, V)]),
    "channel": (channel_decay_attention, [(K,)], [(K, V)]),
    "low_rank": (rwkv7, [(K,), (K,)], [(K, V)]),
    "delta": (gated_delta_rule, [(), ()], [(K, V)]),
    "mlstm": (mlstm, [(), ()], [(K, V), (K,), ()]),
}
EVERY_FORM = pytest.mark.parametrize("name", FORMS)
STARTS = st.lists(st.sets(st.integers(0, T - 1), max_size=6), min_size=B, max_size=B)
CHUNKS = st.sampled_from([1, 2, 3, 5, 8, 16, 32])


def draw(name: str, dtype: torch.dtype) -> tuple[list[Tensor], list[Tensor]]:
    """What is read of all tokens, and the state before them. Log decays are down to -30, most of them near 0."""
    generator = torch.Generator().manual_seed(3)

    def normal(*shape: int) -> Tensor:
        return torch.randn(B, H, *shape, generator=generator, dtype=torch.float64)

    q, k, v = normal(T, K), F.normalize(normal(T, K), dim=-1), normal(T, V)
    gates = [normal(T, *size) for size in FORMS[name][1]]
    if name == "mlstm":
        gates = [5 * gates[0], 15 * gates[1]]
    else:
        gates = [-30 * gates[0].sigmoid() ** 6, *(gate.sigmoid() for gate in gates[1:])]
    state = [normal(*size) for size in FORMS[name][2]]
    return tuple([x.to(dtype).requires_grad_() for x in part] for part in ([q, k, v, *gates], state))


def run_packed(name, inputs, state, starts_BT, chunk):
    return FORMS[name][0](*inputs, *state, chunk, tokens_since_start(starts_BT))


def run_alone(name, inputs, state, starts_BT, chunk):
    """Every document by itself; one that began before this segment, from the state."""
    outputs, finals = [], []
    for lane in range(B):
        of_lane = []
        for begin, end in pairwise(sorted({0, *starts_BT[lane].nonzero().flatten().tolist(), T})):
            before = [x[lane : lane + 1] * (0 if starts_BT[lane, begin] else 1) for x in state]
            o, *final = FORMS[name][0](*(x[lane : lane + 1, :, begin:end] for x in inputs), *before, chunk, None)
            of_lane.append(o)
        outputs.append(torch.cat(of_lane, dim=2))
        finals.append(final)
    return torch.cat(outputs), *(torch.cat(parts) for parts in zip(*finals))


def with_gradients(form, name, dtype, *rest) -> list[Tensor]:
    inputs, state = draw(name, dtype)
    found, generator = form(name, inputs, state, *rest), torch.Generator().manual_seed(4)
    given = [torch.randn(x.shape, generator=generator, dtype=torch.float64).to(dtype) for x in found]
    return [*found, *torch.autograd.grad(found, [*inputs, *state], given, materialize_grads=True)]


def mask(starts) -> Tensor:
    return torch.tensor([[t in of_lane for t in range(T)] for of_lane in starts])


@EVERY_FORM
@settings(max_examples=15)
@given(STARTS, CHUNKS, CHUNKS)
def test_packed_documents_are_as_alone_in_chunks_of_any_length(name, starts, chunk, other):
    packed = with_gradients(run_packed, name, torch.float64, mask(starts), chunk)
    alone = with_gradients(run_alone, name, torch.float64, mask(starts), other)
    for ours, expected in zip(packed, alone, strict=True):
        assert_close(ours, expected, 1e-10 * max(1, expected.abs().max().item()))


@EVERY_FORM
@settings(max_examples=10)
@given(STARTS, CHUNKS)
def test_float32_is_close_and_never_nan(name, starts, chunk):
    found = with_gradients(run_packed, name, torch.float32, mask(starts), chunk)
    exact = with_gradients(run_alone, name, torch.float64, mask(starts), chunk)
    for ours, expected in zip(found, exact, strict=True):
        assert_close(ours.double(), expected, 5e-5 * max(1, expected.abs().max().item()))

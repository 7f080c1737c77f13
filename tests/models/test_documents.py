"""Packed documents have the losses, gradients and final states that each has alone, wherever lanes are cut."""

from functools import cache
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tbptt.models.protocol import RecurrentModel, State, detach, join_lanes, map_state
from tests.helpers import assert_close
from tests.models.tiny import random_tokens, tiny_lstm, tiny_stack

RECURRENT_MIXERS = ("gated_delta", "mamba2", "mlstm", "slstm", "rg_lru", "gla", "lstm")
MODELS = {mixer: lambda mixer=mixer: tiny_stack(layers=[mixer] * 2) for mixer in RECURRENT_MIXERS}
MODELS["lstm_model"] = tiny_lstm
# Models whose state of one document has the same tensors, whatever was in the lane before.
STATES_COMPARE = tuple(MODELS)
build = cache(lambda name: MODELS[name]())

# For every segment its length, and whether the state before it is detached, that is, whether a window begins there.
SEGMENTS = st.lists(st.tuples(st.integers(1, 7), st.booleans()), min_size=1, max_size=4)
# For every lane the tokens that begin a document; some are beyond its end.
STARTS = st.lists(st.sets(st.integers(0, 20), max_size=5), min_size=1, max_size=3)


def run(
    model: RecurrentModel, tokens_BL: Tensor, targets_BL: Tensor, starts_BL: Tensor | None, cuts: dict[int, bool]
) -> tuple[Tensor, State]:
    """The losses (B, L) and the final state; `cuts` are all borders, 0 and L too: is the state detached there?"""
    state, nll = model.initial_state(len(tokens_BL)), []
    for begin, end in pairwise(sorted(cuts)):
        part = slice(begin, end)
        starts_BT = () if starts_BL is None else (starts_BL[:, part],)
        state = detach(state) if cuts[begin] else state
        nll_BT, state = model(tokens_BL[:, part], targets_BL[:, part], state, *starts_BT)
        nll.append(nll_BT)
    return torch.cat(nll, dim=1), state


def run_alone(model, tokens_BL, targets_BL, starts_BL, cuts) -> tuple[Tensor, State]:
    """As `run`, every document by itself from the empty state, without starts.

    It is cut only where the window is, if the model does not see other cuts.
    """
    L, seen = tokens_BL.shape[1], {cut for cut in cuts if cuts[cut] or not model.any_segments()}
    nll, states = [], []
    for lane in range(len(tokens_BL)):
        of_lane = []
        for begin, end in pairwise(sorted({0, *starts_BL[lane].nonzero().flatten().tolist(), L})):
            part = slice(lane, lane + 1), slice(begin, end)
            inside = {cut - begin: cuts[cut] for cut in seen if begin < cut < end}
            losses, state = run(model, tokens_BL[part], targets_BL[part], None, {0: False, end - begin: False} | inside)
            of_lane.append(losses)
        nll.append(torch.cat(of_lane, dim=1))
        states.append(state)
    return torch.cat(nll), join_lanes(states)


def tensors(state: State) -> list[Tensor]:
    found: list[Tensor] = []
    map_state(lambda x: found.append(x) or x, state)
    return found


def compared(name: str, form, *arguments) -> list[Tensor]:
    """Losses, the numbers of the final state, and the gradients of all parameters for a random weighting of both."""
    model, generator = build(name), torch.Generator().manual_seed(1)
    nll_BL, state = form(model, *arguments)
    found = [nll_BL, *(tensors(state) if name in STATES_COMPARE else [])]
    loss = sum((x * torch.randn(x.shape, generator=generator, dtype=x.dtype)).sum() for x in found)
    return found + list(torch.autograd.grad(loss, list(model.parameters()), materialize_grads=True))


@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=10)
@given(SEGMENTS, STARTS)
def test_packed_documents_are_as_alone(name, segments, starts):
    L, cuts = sum(length for length, _ in segments), {0: False}
    for length, detached in segments:
        cuts[max(cuts) + length] = detached
    cuts[L] = False
    tokens_BL, targets_BL = random_tokens(len(starts), L, seed=1), random_tokens(len(starts), L, seed=2)
    starts_BL = torch.tensor([[t in of_lane for t in range(L)] for of_lane in starts])
    arguments = tokens_BL, targets_BL, starts_BL, cuts
    for packed, alone in zip(compared(name, run, *arguments), compared(name, run_alone, *arguments), strict=True):
        assert_close(packed, alone, 1e-10 * max(1, alone.abs().max().item()))


def test_layers_that_are_computed_again_see_the_same_starts():
    tokens_BL, targets_BL, starts_BL = random_tokens(2, 9, seed=1), random_tokens(2, 9, seed=2), random_tokens(2, 9) < 8
    assert starts_BL.any()
    found = []
    for checkpointing in (False, True):
        model = tiny_stack(checkpointing=checkpointing, layers=["mamba2", "slstm"])
        nll_BL, _ = run(model, tokens_BL, targets_BL, starts_BL, {0: False, 5: False, 9: False})
        found.append([nll_BL, *torch.autograd.grad(nll_BL.sum(), list(model.parameters()))])
    for once, again in zip(*found, strict=True):
        assert_close(again, once, 1e-12)


@pytest.mark.parametrize("name", MODELS)
def test_float32_is_never_nan_however_fast_states_are_forgotten(name):
    model = MODELS[name]().float()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 10
    starts_BL = random_tokens(2, 40, seed=3) < 6
    assert starts_BL.any(1).all()
    cuts = {0: False, 17: False, 40: False}
    nll_BL, state = run(model, random_tokens(2, 40, seed=1), random_tokens(2, 40, seed=2), starts_BL, cuts)
    gradients = torch.autograd.grad(nll_BL.sum(), list(model.parameters()), materialize_grads=True)
    assert all(x.isfinite().all() for x in (nll_BL, *tensors(state), *gradients))

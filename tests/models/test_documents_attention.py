"""Attention to documents packed into lanes is attention to each alone: losses, gradients and what follows, to 1e-10."""

from functools import cache
from itertools import pairwise

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from tbptt.errors import UserError
from tbptt.models.mixers import AttentionConfig, RelativeAttentionConfig
from tbptt.models.protocol import InitialMemory, RecurrentModel, State, gather_lanes, map_state, slice_lanes
from tests.helpers import assert_close
from tests.models.tiny import random_tokens, tiny_stack, tiny_txl

LANES, AFTER = 2, 3  # AFTER: tokens that follow the last segment, without starts


def window_stack(window: int | None, **settings) -> RecurrentModel:
    config = AttentionConfig(**{"n_head": 2, "n_kv_head": 1, "d_head": 4, "window": window} | settings)
    return tiny_stack(layers=["attention"] * 2, attention=config)


def relative_stack(*layers: str, **settings) -> RecurrentModel:
    return tiny_stack(layers=list(layers), relative_attention=RelativeAttentionConfig(2, 4, **settings))


@cache
def models() -> dict[str, RecurrentModel]:
    return {
        "txl": tiny_txl(mem_len=6),
        "txl_clamped": tiny_txl(mem_len=2, clamp_len=2, untie_r=True, pre_lnorm=True),
        "txl_same": tiny_txl(mem_len=4, same_length=True),
        "txl_same_pre_norm": tiny_txl(mem_len=3, same_length=True, clamp_len=2, pre_lnorm=True),
        "window": window_stack(5),
        "blocks": window_stack(2, n_kv_head=2, rotary_share=0.0),
        "all": window_stack(None),
        "relative": relative_stack("relative_attention", "relative_attention", mem_len=5, clamp_len=3),
        "both": relative_stack("relative_attention", "attention", mem_len=4, same_length=True),
    }


EVERY_MODEL = pytest.mark.parametrize("name", models())
CUTS = st.lists(st.integers(1, 7), min_size=2, max_size=4)
SEEDS = st.integers(0, 999)


def draw_starts(lengths: list[int], seed: int) -> Tensor:
    return torch.rand(LANES, sum(lengths), generator=torch.Generator().manual_seed(seed)) < 0.2


def run(model, tokens_BL: Tensor, lengths, starts_BL=None, state: State = None, omit=False, mem_lens=None):
    """Losses (B, L) and the state after segments of these lengths, attached. With `omit`, no starts are given for
    segments that have none; `mem_lens` are the segments' own."""
    state, nll, begin = model.initial_state(len(tokens_BL)) if state is None else state, [], 0
    for index, length in enumerate(lengths):
        part = slice(begin, begin + length)
        starts_BT = None if starts_BL is None else starts_BL[:, part]
        starts_BT = None if omit and starts_BT is not None and not starts_BT.any() else starts_BT
        with model.with_context(**{} if mem_lens is None else {"mem_len": mem_lens[index]}):
            nll_BT, state = model(tokens_BL[:, part], tokens_BL[:, begin + 1 : begin + length + 1], state, starts_BT)
        nll.append(nll_BT)
        begin += length
    return torch.cat(nll, dim=1), state


def documents(starts_L: Tensor) -> list[tuple[int, int]]:
    borders = sorted({0, len(starts_L), *starts_L.nonzero().flatten().tolist()})
    return list(pairwise(borders))


def run_alone(model, tokens_BL: Tensor, lengths, starts_BL: Tensor, same_cuts: bool, mem_lens=None):
    """The same losses, every document for itself; and the last states of the lanes' last documents."""
    nll, states = [], []
    for tokens_L, starts_L in zip(tokens_BL, starts_BL, strict=True):
        for first, end in documents(starts_L):
            segment = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))[first:end]
            numbers, own = segment.unique_consecutive(return_counts=True)
            own_lens = None if mem_lens is None else [mem_lens[number] for number in numbers]
            own = own.tolist() if same_cuts else [end - first]
            nll_1T, state = run(model, tokens_L[None, first : end + 1], own, mem_lens=own_lens)
            nll.append(nll_1T[0])
        states.append(state)
    return torch.cat(nll).view(starts_BL.shape), states


def assert_packed_is_alone(model, lengths, starts_BL, omit=False, same_cuts=True, mem_lens=None) -> None:
    tokens_BL, L = random_tokens(LANES, sum(lengths) + AFTER + 1), sum(lengths)
    after_BA = tokens_BL[:, L:]
    found = []
    for alone in (False, True):
        model.zero_grad()
        if alone:
            nll_BL, states = run_alone(model, tokens_BL, lengths, starts_BL, same_cuts, mem_lens)
            parts = [run(model, after_A[None], [AFTER], state=s)[0] for after_A, s in zip(after_BA, states)]
            next_BA = torch.cat(parts)
        else:
            nll_BL, state = run(model, tokens_BL, lengths, starts_BL, omit=omit, mem_lens=mem_lens)
            next_BA, _ = run(model, after_BA, [AFTER], state=state)
        (nll_BL.sum() + next_BA.sum()).backward()
        found.append([nll_BL.detach(), next_BA.detach(), *(p.grad.clone() for p in model.parameters())])
    for ours, expected in zip(*found, strict=True):
        assert_close(ours, expected, 1e-10)


@EVERY_MODEL
@settings(max_examples=5)
@given(CUTS, SEEDS, st.booleans(), st.booleans())
def test_packed_is_alone_through_windows_of_attached_segments(name, lengths, seed, omit, same_cuts):
    model = models()[name]
    same_cuts = same_cuts or not model.any_segments()
    assert_packed_is_alone(model, lengths, draw_starts(lengths, seed), omit, same_cuts)


@pytest.mark.parametrize("name", ["txl", "txl_same", "window", "relative"])
@settings(max_examples=3)
@example([(7, 1), (7, 2), (3, 9)], 0)  # blocks, and more counted than remembered
@given(st.lists(st.tuples(st.integers(1, 7), st.integers(1, 9)), min_size=3, max_size=4), SEEDS)
def test_packed_is_alone_where_the_memory_is_made_shorter_and_longer(name, segments, seed):
    lengths, mem_lens = zip(*segments)
    assert_packed_is_alone(models()[name], lengths, draw_starts(lengths, seed), mem_lens=mem_lens)


@torch.no_grad()
@pytest.mark.parametrize("same_length", [False, True])
def test_a_document_before_of_any_size_changes_nothing(same_length):
    """Its scores of 1e60 are masked: none of them is only lowered."""
    model = tiny_txl(mem_len=6, same_length=same_length, tie_weight=False)
    tokens_BL = random_tokens(1, 13) % 29
    alone_BT, _ = run(model, tokens_BL[:, 4:], [3, 5])
    tokens_BL[:, 1:4] = 29
    model.embedding.tables[0][29] *= 1e30
    starts_BL = torch.arange(12)[None] == 4
    packed_BL, _ = run(model, tokens_BL, [7, 5], starts_BL)
    assert_close(packed_BL[:, 4:], alone_BT, 1e-10)


@torch.no_grad()
@EVERY_MODEL
def test_without_a_start_nothing_changes_and_a_start_touches_its_own_lane_alone(name):
    lengths, tokens_BL = [6, 1, 5, 3], random_tokens(LANES, 16)
    none_BL, state = run(models()[name], tokens_BL, lengths)
    starts_BL = torch.zeros(LANES, 15, dtype=torch.bool)
    false_BL, counted = run(models()[name], tokens_BL, lengths, starts_BL)
    assert_close(false_BL, none_BL, 1e-12 if name == "blocks" else 0)  # blocks: torch's kernel for a mask per lane
    assert len(tensors(counted)) > len(tensors(state)) == len(tensors(models()[name].initial_state(1)))
    starts_BL[0, [3, 7]] = True
    one_BL, _ = run(models()[name], tokens_BL, lengths, starts_BL)
    assert torch.equal(one_BL[1], false_BL[1]) and torch.equal(one_BL[0, :3], false_BL[0, :3])
    assert ((one_BL[0, 3:] - none_BL[0, 3:]).abs() > 1e-6).any()


def tensors(state: State) -> list[Tensor]:
    found: list[Tensor] = []
    map_state(lambda x: found.append(x) or x, state)
    return found


@torch.no_grad()
@EVERY_MODEL
def test_lanes_of_the_state_can_be_taken_apart_and_it_is_not_overwritten(name):
    model, tokens_BL, starts_BL = models()[name], random_tokens(LANES, 10), draw_starts([9], seed=4)
    _, state = run(model, tokens_BL[:, :6], [5], starts_BL[:, :5])
    before = map_state(torch.clone, state)
    next_BL, _ = run(model, tokens_BL[:, 5:], [4], state=state)
    reversed_BL, _ = run(model, tokens_BL[:, 5:].flip(0), [4], state=gather_lanes(state, torch.tensor([1, 0])))
    second_1L, _ = run(model, tokens_BL[1:, 5:], [4], state=slice_lanes(state, slice(1, 2)))
    assert_close(reversed_BL.flip(0), next_BL, 1e-12)
    assert_close(second_1L, next_BL[1:], 1e-12)
    assert all(torch.equal(x, y) for x, y in zip(tensors(state), tensors(before), strict=True))


@torch.no_grad()
@pytest.mark.parametrize("name", ["txl", "txl_clamped", "relative", "both"])
def test_a_state_for_inference_goes_on_like_the_state_itself(name):
    model, tokens_BL, starts_BL = models()[name], random_tokens(2, 9), draw_starts([8], seed=0)
    nll_BL, _ = run(model, tokens_BL, [3, 1, 4], starts_BL)
    other_BL, _ = run(model, tokens_BL, [3, 1, 4], starts_BL, model.for_inference(model.initial_state(2)))
    assert_close(other_BL, nll_BL, 1e-10)
    _, state = run(model, tokens_BL[:, :5], [3, 1], starts_BL[:, :4])
    rest_BL, _ = run(model, tokens_BL[:, 4:], [4], starts_BL[:, 4:], model.for_inference(state))
    assert_close(rest_BL, nll_BL[:, 4:], 1e-10)


def test_recomputed_activations_change_nothing():
    found, tokens_BL, starts_BL = [], random_tokens(2, 9), draw_starts([8], seed=1)
    for checkpointing in (False, True):
        model = tiny_txl(checkpointing=checkpointing, dropatt=0.2, dropout=0.3).train()
        torch.manual_seed(3)
        nll_BL, _ = run(model, tokens_BL, [5, 3], starts_BL)
        nll_BL.mean().backward()
        found.append([nll_BL.detach(), *(parameter.grad for parameter in model.parameters())])
    assert all(torch.equal(x, y) for x, y in zip(*found, strict=True))


def test_documents_do_not_start_from_zeros():
    model, tokens_BL = tiny_txl(initial_memory=InitialMemory.zeros), random_tokens(2, 5)
    run(model, tokens_BL, [4])
    with pytest.raises(UserError, match="initial_memory=zeros has no meaning for documents"):
        run(model, tokens_BL, [4], torch.zeros(2, 4, dtype=torch.bool))

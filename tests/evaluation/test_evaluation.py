"""A score counts every target once, and does not depend on how it was computed."""

import json
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn

from tbptt.device import Precision
from tbptt.errors import UserError
from tbptt.evaluation import plan
from tbptt.evaluation.config import BurnIn, EvalConfig
from tbptt.evaluation.losses import save_losses
from tbptt.evaluation.plan import choose_plan
from tbptt.evaluation.score import STEPS_TOGETHER, score
from tbptt.launch.world import SINGLE_PROCESS, World
from tbptt.models.protocol import RecurrentModel, numel
from tests.helpers import assert_close
from tests.models.tiny import random_stream, run_segments, tiny_lstm, tiny_stack, tiny_txl

MODELS = {
    "txl": tiny_txl,
    "txl_window": lambda: tiny_txl(same_length=True, clamp_len=3),
    "lstm": tiny_lstm,
    "stack": tiny_stack,
}
build = cache(lambda name: MODELS[name]().eval())
lanes = st.integers(2, 12)
streams = st.builds(random_stream, st.integers(2, 120), seed=st.integers(0, 9))


def loss_of(model, stream, **settings) -> float:
    return score(model, stream, EvalConfig(**settings), tgt_len=4, precision=Precision.fp64).loss


class Echo(RecurrentModel):
    """Loses target - token, so that a stream of squares shows which pairs were counted; its state is what it read."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def initial_state(self, batch_size):
        return torch.zeros(batch_size, 0, dtype=torch.int64)

    def reach(self, tgt_len):
        return 2 * tgt_len

    def hidden(self, tokens_BT, state):
        return tokens_BT[..., None], torch.cat([state, tokens_BT], dim=1)

    def softmax(self, h_N1, targets_N):
        return (targets_N - h_N1[:, 0]).double()


@given(st.integers(2, 150), st.integers(1, 40), st.integers(1, 12), st.sampled_from(BurnIn))
def test_every_target_of_the_split_is_scored_once_beside_its_token(n_tokens, tgt_len, batch_size, burn_in):
    scored = score(Echo(), np.arange(n_tokens) ** 2, EvalConfig(batch_size=batch_size, burn_in=burn_in), tgt_len)
    assert scored.tokens == n_tokens - 1
    assert scored.loss * scored.tokens == pytest.approx((n_tokens - 1) ** 2, rel=1e-12)


@torch.no_grad()
@given(streams, st.integers(1, 9))
def test_one_lane_is_the_plain_walk_through_the_split(stream, tgt_len):
    model, tokens_BL = build("txl"), torch.from_numpy(stream.astype(np.int64))[None]
    lengths = [min(tgt_len, len(stream) - 1 - start) for start in range(0, len(stream) - 1, tgt_len)]
    nll_BL, _ = run_segments(model, tokens_BL[:, :-1], tokens_BL[:, 1:], lengths)
    assert loss_of(model, stream, tgt_len=tgt_len, batch_size=1) == pytest.approx(nll_BL.mean().item(), rel=1e-12)


@given(streams, lanes, st.integers(1, 9), st.integers(0, 13), st.sampled_from([-1, 2, 7]), st.booleans())
def test_any_number_of_lanes_gives_the_one_lane_number(stream, batch_size, tgt_len, mem_len, clamp_len, same_length):
    assume(mem_len > 0 or not same_length)
    settings = {"tgt_len": tgt_len, "mem_len": mem_len, "clamp_len": clamp_len, "same_length": same_length}
    one = loss_of(build("txl"), stream, batch_size=1, **settings)
    assert loss_of(build("txl"), stream, batch_size=batch_size, **settings) == pytest.approx(one, rel=1e-12)


@given(streams, lanes, st.integers(1, 20), st.integers(1, 13))
def test_under_same_length_any_segment_length_gives_the_same_number(stream, batch_size, tgt_len, mem_len):
    settings = {"mem_len": mem_len, "same_length": True}
    one = loss_of(build("txl"), stream, tgt_len=5, batch_size=1, **settings)
    other = loss_of(build("txl"), stream, tgt_len=tgt_len, batch_size=batch_size, **settings)
    assert other == pytest.approx(one, rel=1e-12)


@pytest.mark.parametrize("name", ["txl", "txl_window", "lstm"])
def test_without_burn_in_the_number_is_another_and_says_so(name):
    stream, scores = random_stream(100), {}
    for burn_in in BurnIn:
        config = EvalConfig(batch_size=8, burn_in=burn_in)
        scores[burn_in] = score(build(name), stream, config, 4, Precision.fp64)
        assert scores[burn_in].settings["burn_in"] == burn_in.name
    assert scores[BurnIn.exact].tokens == scores[BurnIn.none].tokens == 99
    assert abs(scores[BurnIn.exact].loss - scores[BurnIn.none].loss) > 1e-6


@given(streams, lanes)
def test_a_model_of_unlimited_reach_is_scored_in_one_lane(stream, batch_size):
    scored = score(build("lstm"), stream, EvalConfig(batch_size=batch_size), 4, Precision.fp64)
    assert scored.settings["batch_size"] == 1
    assert scored.loss == loss_of(build("lstm"), stream, batch_size=1)


def test_lanes_are_really_used():
    scored = score(build("txl"), random_stream(500), EvalConfig(batch_size=8), 4, Precision.fp64)
    assert scored.settings["batch_size"] == 8


def test_the_settings_reported_are_those_it_was_scored_with():
    config = EvalConfig(tgt_len=3, mem_len=7, same_length=True, batch_size=2)
    settings = score(build("txl"), random_stream(200), config, 4, Precision.fp64).settings
    context = {"mem_len": 7, "clamp_len": -1, "same_length": True}
    assert settings == {"tgt_len": 3, **context, "batch_size": 2, "burn_in": "exact"}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", ["txl", "lstm"])
def test_scoring_leaves_no_trace(name, training):
    model = {"txl": tiny_txl, "lstm": tiny_lstm}[name](dropout=0.5).train(training)
    settings = {"mem_len": 3, "clamp_len": 2, "same_length": True} if name == "txl" else {}
    context, weights, random_state = model.context(), [p.clone() for p in model.parameters()], torch.get_rng_state()
    assert loss_of(model, random_stream(40), **settings) == loss_of(build(name), random_stream(40), **settings)
    assert {module.training for module in model.modules()} == {training}
    assert model.context() == context
    assert all(torch.equal(p, before) and p.grad is None for p, before in zip(model.parameters(), weights))
    assert torch.equal(torch.get_rng_state(), random_state)


def test_a_score_that_is_interrupted_leaves_no_trace_either():
    def interrupt(done, total):
        raise KeyboardInterrupt

    model = tiny_txl().train()
    context = model.context()
    with pytest.raises(KeyboardInterrupt):
        score(model, random_stream(40), EvalConfig(mem_len=3), 4, Precision.fp64, interrupt)
    assert model.context() == context
    assert model.training


@given(streams, st.integers(1, 150), lanes)
def test_max_tokens_scores_the_first_so_many_targets(stream, max_tokens, batch_size):
    config = EvalConfig(batch_size=batch_size, max_tokens=max_tokens)
    scored = score(build("txl"), stream, config, 4, Precision.fp64)
    assert scored.tokens == min(max_tokens, len(stream) - 1)
    beginning = stream[: max_tokens + 1]
    assert scored.loss == loss_of(build("txl"), beginning, batch_size=batch_size)


@given(n_tokens=st.integers(2, 90), same_length=st.booleans())
def test_the_automatic_choice_changes_no_number(n_tokens, same_length):
    settings = {"mem_len": 6, "clamp_len": 3, "same_length": same_length, "tgt_len": 5}
    stream = random_stream(n_tokens)
    one = loss_of(build("txl"), stream, batch_size=1, walk_len=5 if same_length else None, **settings)
    assert loss_of(build("txl"), stream, **settings) == pytest.approx(one, rel=1e-12)


@pytest.mark.parametrize("memory", [0, 10**4, 10**6, 10**12])
def test_the_automatic_choice_fits_into_memory_if_anything_does(monkeypatch, memory):
    monkeypatch.setattr(plan, "memory_budget", lambda device: memory)
    model = build("txl")
    with model.with_context(same_length=True):
        chosen = choose_plan(model, 100_000, EvalConfig(), 4, SINGLE_PROCESS)
        needed = 4 * model.cost(chosen.tgt_len)[1] * chosen.batch_size * chosen.tgt_len
        least = 4 * model.cost(4)[1] * 4
    assert needed <= memory or needed == least


@pytest.mark.parametrize("memory", [10**3, 10**5, 10**7])
def test_the_states_of_the_lanes_fit_into_memory_if_one_does(monkeypatch, memory):
    monkeypatch.setattr(plan, "memory_budget", lambda device: 10**12)
    monkeypatch.setattr(plan, "total_memory", lambda device: memory)
    model = build("txl")
    lanes = choose_plan(model, 100_000, EvalConfig(), 4, SINGLE_PROCESS).batch_size
    full = tuple(torch.zeros(lanes, model.mem_len, model.d_model, dtype=torch.float64) for _ in model.layers)
    numbers = numel(model.for_inference(full))
    assert numbers == lanes * model.state_size()
    assert 8 * numbers <= plan.STATE_SHARE * memory or lanes == 1


def test_an_approximation_keeps_to_the_segments_asked_for():
    """Where its lanes begin, and so its number, depends on their length."""
    with build("txl").with_context(same_length=True):
        for length in (5, 64):
            chosen = choose_plan(build("txl"), 100_000, EvalConfig(burn_in=BurnIn.none), length, SINGLE_PROCESS)
            assert (chosen.tgt_len, chosen.burn_in) == (length, 0)


def test_a_walk_of_its_own_length_needs_same_length():
    with pytest.raises(UserError, match=r"eval\.walk_len=3 needs eval\.same_length=true"):
        loss_of(build("txl"), random_stream(20), walk_len=3, same_length=False)


@given(batch_size=st.integers(1, 5), tgt_len=st.integers(1, 7), n_tokens=st.integers(2, 60))
def test_losses_are_kept_in_the_order_of_the_text(batch_size, tgt_len, n_tokens):
    stream, settings = random_stream(n_tokens), {"mem_len": 4, "same_length": True, "save_losses": "x"}
    model = build("txl")
    found = score(model, stream, EvalConfig(batch_size=batch_size, walk_len=tgt_len, **settings), 4, Precision.fp64)
    plain = score(model, stream, EvalConfig(batch_size=1, walk_len=4, **settings), 4, Precision.fp64)
    assert_close(found.losses_N, plain.losses_N, 1e-6)  # float32
    assert found.losses_N.mean() == pytest.approx(found.loss, rel=1e-6) and len(found.losses_N) == n_tokens - 1


class OtherRank(World):
    """Rank 0 of two, the other of which scores 100 targets of loss 2 in 50 steps."""

    def max(self, value: int) -> int:
        waited.append(value)
        return max(value, 50)

    def gather(self, value):
        return [value, value]

    def sum(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.tensor([200.0, 100.0]).to(x) if x.numel() == 2 else x


waited: list[int] = []


def test_a_rank_without_lanes_waits_for_the_others_again_and_again():
    """In one collective it would wait for as long as all of their work takes, and gloo gives up after a while."""
    waited.clear()
    found = score(tiny_lstm(), random_stream(101), EvalConfig(), 4, Precision.fp64, world=OtherRank(0, 2))
    assert (found.tokens, found.loss) == (100, 2.0)
    assert len(waited) == 1 + 50 // STEPS_TOGETHER > 3


def test_saved_losses_are_raw_float32_beside_their_description(tmp_path):
    losses = np.array([0.5, 2.25, 1e-3])
    save_losses(losses, tmp_path / "kept/losses.f32", {"split": "test"})
    assert_close(np.fromfile(tmp_path / "kept/losses.f32", "<f4"), losses.astype("f4"), 0)
    about = json.loads((tmp_path / "kept/losses.f32.json").read_text())
    assert (about["count"], about["dtype"], about["split"]) == (3, "<f4", "test")

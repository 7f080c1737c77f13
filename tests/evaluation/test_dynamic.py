"""Dynamic evaluation follows its published rule, scores before it learns, leaves no trace, and helps where it can."""

import numpy as np
import pytest
import torch

from tbptt.data.lanes import Lanes
from tbptt.device import Precision
from tbptt.errors import UserError
from tbptt.evaluation.config import EvalConfig
from tbptt.evaluation.dynamic import score_dynamically
from tbptt.evaluation.dynamic_config import DynamicConfig, RMSDynamicConfig, SGDDynamicConfig
from tbptt.evaluation.score import score
from tbptt.models.protocol import detach
from tbptt.training.optimizers import AdamConfig
from tests.helpers import assert_close
from tests.models.tiny import VOCABULARY, random_stream, tiny_lstm, tiny_stack, tiny_txl
from tests.training.trainers import make_trainer

MODELS = {
    "txl": tiny_txl,
    "txl_adaptive": lambda **more: tiny_txl(cutoffs=[5, 12], d_embed=6, div_val=2, **more),  # tails without a target
    "lstm": tiny_lstm,
    "stack": tiny_stack,
}
EVERY_MODEL = pytest.mark.parametrize("name", MODELS)
TRAIN = random_stream(60, seed=5)
T = 4
SGD = SGDDynamicConfig(lr=0.02, decay=0.1)
RMS = RMSDynamicConfig(lr=0.002, decay=0.3, eps=0.01, statistics_tokens=22)


def loss_of(model, stream, dynamic: DynamicConfig, train=TRAIN, **settings) -> float:
    config = EvalConfig(dynamic=dynamic, **settings)
    return score_dynamically(model, stream, train, config, T, Precision.fp64).loss


def by_hand(model, stream, step) -> float:
    """The mean loss of a walk in segments of T, with `step` called after the gradient of each is there."""
    tokens, total, state = torch.from_numpy(stream.astype(np.int64))[None], 0.0, model.initial_state(1)
    for start in range(0, len(stream) - 1, T):
        part = slice(start, min(start + T, len(stream) - 1))
        model.zero_grad()
        nll, state = model(tokens[:, part], tokens[:, 1:][:, part], detach(state))
        nll.mean().backward()
        total += nll.sum().item()
        step()
    return total / (len(stream) - 1)


@EVERY_MODEL
def test_without_decay_sgd_is_torchs(name):
    stream, model = random_stream(43), MODELS[name]().eval()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    expected = by_hand(model, stream, optimizer.step)
    assert_close(loss_of(MODELS[name](), stream, SGDDynamicConfig(lr=0.05, decay=0)), expected, 1e-12)


@EVERY_MODEL
@pytest.mark.parametrize("rule", [SGD, RMS])
def test_the_rule_is_the_published_one(name, rule):
    stream, model = random_stream(43), MODELS[name]().eval()
    home = {key: value.detach().clone() for key, value in model.named_parameters()}
    squares, segments = {key: torch.zeros_like(value) for key, value in home.items()}, []

    def collect():
        segments.append(1)
        for key, parameter in model.named_parameters():
            squares[key] += parameter.grad**2

    def follow():
        for key, parameter in model.named_parameters():
            scale, pull = 1.0, rule.decay
            if rule is RMS:
                scale = roots[key] + RMS.eps
                pull = torch.minimum(rule.decay * roots[key] / mean, torch.ones(()))
            step = -rule.lr * parameter.grad / scale + pull * (home[key] - parameter)
            parameter.data += step.detach()

    by_hand(model, TRAIN[:23], collect)
    roots = {key: (square / len(segments)).sqrt() for key, square in squares.items()}
    mean = sum(root.sum() for root in roots.values()) / sum(root.numel() for root in roots.values())
    assert any((rule.decay * root > mean).any() for root in roots.values()), "no rate of decay is capped here"
    assert_close(loss_of(MODELS[name](), stream, rule), by_hand(model, stream, follow), 1e-12)


@EVERY_MODEL
@pytest.mark.parametrize("rule", [SGD, RMS])
def test_a_segment_is_scored_before_the_weights_follow_it(name, rule):
    model, stream = MODELS[name](), random_stream(T + 1)
    static = score(model, stream, EvalConfig(), T, Precision.fp64).loss
    assert loss_of(model, stream, rule) == pytest.approx(static, rel=1e-14)
    longer = random_stream(2 * T + 1)
    static = score(model, longer, EvalConfig(), T, Precision.fp64).loss
    assert abs(loss_of(model, longer, rule) - static) > 1e-6


@EVERY_MODEL
@pytest.mark.parametrize("rule", [SGD, RMS])
@pytest.mark.parametrize("interrupted", [False, True])
def test_the_weights_are_those_that_were_trained_again(name, rule, interrupted):
    def interrupt(done, total):
        assert any(not torch.equal(p, before) for p, before in zip(model.parameters(), weights))
        if interrupted and done == 3:
            raise KeyboardInterrupt

    model = MODELS[name](dropout=0.5).train()
    weights, random_state = [p.detach().clone() for p in model.parameters()], torch.get_rng_state()
    config, context = EvalConfig(dynamic=rule), model.context()
    try:
        score_dynamically(model, random_stream(40), TRAIN, config, T, Precision.fp64, interrupt)
        assert not interrupted
    except KeyboardInterrupt:
        assert interrupted
    assert all(torch.equal(p, before) and p.grad is None for p, before in zip(model.parameters(), weights))
    assert model.training and model.context() == context and torch.equal(torch.get_rng_state(), random_state)


def test_settings_of_context_and_length_hold():
    stream, settings = random_stream(60), {"mem_len": 3, "clamp_len": 2, "same_length": True}
    config = EvalConfig(dynamic=SGD, tgt_len=5, max_tokens=31, **settings)
    scored = score_dynamically(tiny_txl(), stream, TRAIN, config, T, Precision.fp64)
    assert scored.tokens == 31
    assert scored.settings == {"tgt_len": 5, **settings, "batch_size": 1, "burn_in": "exact"}
    direct = tiny_txl()
    direct.set_context(**settings)
    config = EvalConfig(dynamic=SGD, tgt_len=5)
    assert scored.loss == score_dynamically(direct, stream[:32], TRAIN, config, T, Precision.fp64).loss


def test_too_large_a_step_is_refused_not_reported():
    with pytest.raises(UserError, match=r"eval\.dynamic\.lr=1e\+200 led to an infinite loss after \d+ tokens"):
        loss_of(tiny_txl(), random_stream(60), SGDDynamicConfig(lr=1e200))


def habits_text(n_tokens: int, habits: np.ndarray, seed: int) -> np.ndarray:
    """Every symbol is followed by the one its habit says, but one time in ten by any."""
    random, text = np.random.default_rng(seed), [0]
    for _ in range(n_tokens - 1):
        text.append(random.integers(VOCABULARY) if random.random() < 0.1 else habits[text[-1]])
    return np.array(text)


@pytest.mark.parametrize("name", ["txl", "lstm"])
@pytest.mark.parametrize("rule", [SGDDynamicConfig(lr=0.1), RMSDynamicConfig(lr=0.005, decay=0.001, eps=0.01)])
def test_where_habits_change_the_test_loss_falls(name, rule):
    habits = np.random.default_rng(0).permutation(VOCABULARY)
    changed = np.where(np.arange(VOCABULARY) < 10, habits[::-1], habits)
    train, test = habits_text(16_000, habits, seed=1), habits_text(2_000, changed, seed=2)
    model = MODELS[name](dtype=torch.float32, d_model=16)
    trainer = make_trainer(model, Lanes.cut(train, 8, 16), AdamConfig(lr=0.02), max_steps=200)
    for _ in range(200):
        trainer.update()
    assert score(model, train[:2000], EvalConfig(), 16).loss < 1.2, "the habits are not learned"
    static = score(model, test, EvalConfig(), 16).loss
    scored = score_dynamically(model, test, train, EvalConfig(dynamic=rule), 16)
    assert scored.loss < 0.6 * static
    assert score(model, test, EvalConfig(), 16).loss == static

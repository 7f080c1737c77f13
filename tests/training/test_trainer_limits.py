"""What bounds an update: clipping, numbers that are not finite, mixed precision."""

import math

import numpy as np
import pytest
import torch

from tbptt.data.lanes import Lanes
from tbptt.device import Precision
from tbptt.errors import UserError
from tbptt.models.protocol import map_state
from tbptt.training.optimizers import AdamConfig, AdamWConfig, MuonConfig, SGDConfig
from tbptt.training.schedules import ConstantConfig
from tbptt.training.trainer import Trainer
from tests.models.tiny import random_stream, tiny_lstm, tiny_stack, tiny_txl
from tests.training.trainers import make_trainer

MODELS = {"txl": tiny_txl, "lstm": tiny_lstm, "stack": tiny_stack}
BOTH_MODELS = pytest.mark.parametrize("name", MODELS)
OPTIMIZERS = [AdamConfig(), AdamWConfig(), SGDConfig(momentum=0.9), MuonConfig()]
OPTIMIZERS_AT_RATES = [AdamConfig(lr=0.01), AdamWConfig(lr=0.01), SGDConfig(lr=1.0, momentum=0.9)]
SGD = {"optimizer": SGDConfig(lr=1.0), "scheduler": ConstantConfig(), "precision": Precision.fp64}


def some_lanes(batch_size: int = 4) -> Lanes:
    return Lanes.cut(random_stream(20 * batch_size + 1), batch_size, 4)


def weights_of(trainer: Trainer) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in trainer.model.parameters()])


def states_of(trainer: Trainer) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    for state in trainer.states:
        map_state(lambda x: found.append(x.clone()) or x, state)
    return found


@BOTH_MODELS
@pytest.mark.parametrize("clip", [0.0, 0.01, 1e6])
def test_the_gradient_is_scaled_to_the_clip_norm_where_longer_and_reported_before(name, clip):
    trainer = make_trainer(MODELS[name](), some_lanes(), clip=clip, **SGD)
    before = weights_of(trainer)
    update = trainer.update()
    gradient = torch.cat([parameter.grad.flatten() for parameter in trainer.model.parameters()])
    if clip == 0.01:
        assert update.grad_norm > 10 * clip
        assert 0.999 * clip < gradient.norm() <= clip
    else:
        assert gradient.norm().item() == pytest.approx(update.grad_norm, rel=1e-12)
    torch.testing.assert_close(before - weights_of(trainer), gradient, rtol=0, atol=1e-12)


@BOTH_MODELS
@pytest.mark.parametrize("optimizer", OPTIMIZERS_AT_RATES)
def test_clipping_inside_the_optimizer_is_clipping_before_it(name, optimizer):
    """In float64 the gradient is scaled first, in other precisions where the optimizer reads it."""
    found = []
    for dtype, precision in ((torch.float64, Precision.fp64), (torch.float32, Precision.fp32)):
        model = MODELS[name](torch.float32).to(dtype)
        trainer = make_trainer(model, some_lanes(), optimizer, clip=0.02, precision=precision)
        before = weights_of(trainer)
        updates = [trainer.update() for _ in range(4)]
        assert min(update.grad_norm for update in updates) > 0.2  # clipped tenfold
        found.append((weights_of(trainer) - before).double())
    assert (found[1] - found[0]).norm() < 1e-3 * found[0].norm()


@BOTH_MODELS
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_loss_that_is_not_finite_changes_neither_weights_nor_optimizer(name, optimizer):
    trainer = make_trainer(MODELS[name](dtype=torch.float32), some_lanes(), optimizer, micro_batch=2)
    trainer.update()
    optimizer_before = {id(p): {k: v.clone() for k, v in s.items()} for p, s in trainer.optimizer.state.items()}
    with torch.no_grad():
        trainer.model.softmax.biases[0][3] = math.nan
    weights = weights_of(trainer)
    assert not math.isfinite(trainer.update().loss)
    torch.testing.assert_close(weights_of(trainer), weights, rtol=0, atol=0, equal_nan=True)
    for p, before in optimizer_before.items():
        (after,) = (s for q, s in trainer.optimizer.state.items() if id(q) == p)
        assert before and all(torch.equal(after[key], before[key]) for key in before)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_first_update_that_is_skipped_leaves_no_trace(optimizer):
    trainers = [make_trainer(tiny_txl(), some_lanes(), optimizer, precision=Precision.fp64) for _ in range(2)]
    for trainer, factor in zip(trainers, (1.0, math.inf)):
        handle = trainer.model.softmax.biases[0].register_hook(lambda gradient, factor=factor: gradient * factor)
        weights = weights_of(trainer)
        trainer.update()
        handle.remove()
        assert torch.equal(weights_of(trainer), weights) == (factor == math.inf)
    fresh = make_trainer(tiny_txl(), some_lanes(), optimizer, precision=Precision.fp64)
    fresh.states, fresh.step = trainer.states, 1
    for _ in range(2):
        assert fresh.update().loss == trainer.update().loss
    assert torch.equal(weights_of(fresh), weights_of(trainer))


@BOTH_MODELS
def test_states_that_carry_nan_are_emptied_once_seen(name):
    trainer = make_trainer(MODELS[name](dtype=torch.float32), some_lanes(), micro_batch=2)
    empty, table = states_of(trainer), trainer.model.embedding.tables[0]
    trainer.update()
    good = table.detach().clone()
    with torch.no_grad():
        table.fill_(math.nan)
    assert not math.isfinite(trainer.update().loss)
    with torch.no_grad():
        table.copy_(good)
    weights = weights_of(trainer)
    assert not math.isfinite(trainer.update().loss)  # it began with the states of the update before
    assert torch.equal(weights_of(trainer), weights)
    assert all(torch.equal(x, y) for x, y in zip(states_of(trainer), empty, strict=True))
    for _ in range(3):
        assert math.isfinite(trainer.update().loss)
        assert all(x.numel() and x.any() for x in states_of(trainer))
    assert trainer.nonfinite == 0 and weights_of(trainer).isfinite().all()
    assert not torch.equal(weights_of(trainer), weights)


def test_a_gradient_that_is_not_finite_changes_no_weight_but_keeps_the_state():
    trainer = make_trainer(tiny_txl(), some_lanes(), precision=Precision.fp64)
    handle = trainer.model.softmax.biases[0].register_hook(lambda gradient: gradient * math.inf)
    weights = weights_of(trainer)
    update = trainer.update()
    assert math.isfinite(update.loss) and not math.isfinite(update.grad_norm)
    assert torch.equal(weights_of(trainer), weights)
    assert all(x.numel() for x in states_of(trainer))
    handle.remove()
    trainer.update()
    assert not torch.equal(weights_of(trainer), weights)


def test_too_many_updates_in_a_row_that_are_not_finite_end_the_run_at_a_named_step():
    trainer = make_trainer(tiny_txl(), some_lanes(), precision=Precision.fp64, max_nonfinite=3)
    bias = trainer.model.softmax.biases[0]
    poisoned = [False, True, True, False, True, True]
    for bad in poisoned:
        with torch.no_grad():
            bias[0] = math.nan if bad else 0.0
        assert math.isfinite(trainer.update().loss) is not bad
    trainer.update()
    with pytest.raises(UserError, match=rf"step {len(poisoned) + 1}\b.*optimizer\.lr"):
        trainer.update()  # which looks at the one before


def test_a_continued_run_goes_on_counting_updates_that_are_not_finite():
    trainer, resumed = (make_trainer(tiny_txl(), some_lanes(), max_nonfinite=2) for _ in range(2))
    with torch.no_grad():
        for model in (trainer.model, resumed.model):
            model.softmax.biases[0][0] = math.nan
    trainer.update()
    resumed.load_state_dict(trainer.state_dict())
    resumed.update()
    with pytest.raises(UserError, match="2 updates in a row"):
        resumed.update()


@BOTH_MODELS
@pytest.mark.parametrize("precision", Precision)
def test_every_precision_learns_a_repeating_stream(name, precision):
    if (name, precision) == ("lstm", Precision.fp16):
        pytest.skip("no processor has an LSTM in float16: the configuration refuses it")
    stream = np.tile(np.arange(5, dtype=np.uint8), 100)
    dtype = torch.float64 if precision is Precision.fp64 else torch.float32
    model, lanes = MODELS[name](dtype=dtype), Lanes.cut(stream, 4, 10)
    trainer = make_trainer(model, lanes, AdamConfig(lr=0.02), ConstantConfig(), precision=precision, clip=1.0)
    losses = [trainer.update().loss for _ in range(40)]
    assert all(map(math.isfinite, losses))
    assert losses[-1] < 0.5 * losses[0]
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}

"""Training is the same mathematics in any micro-batches, and the same bits however often it is interrupted."""

import io

import pytest
import torch

from tbptt.data.lanes import Lanes
from tbptt.device import Precision
from tbptt.training.config import ResetState
from tbptt.training.trainer import Trainer
from tests.helpers import assert_close, assert_relatively_close
from tests.models.tiny import random_stream, tiny_lstm, tiny_stack, tiny_txl
from tests.training.trainers import make_trainer, numbers_of

MODELS = {"txl": tiny_txl, "lstm": tiny_lstm, "stack": tiny_stack}
BOTH_MODELS = pytest.mark.parametrize("name", MODELS)
FP64 = {"precision": Precision.fp64}


def lanes_of(batch_size: int, length: int, tgt_len: int = 4, shuffle_seed: int | None = None) -> Lanes:
    return Lanes.cut(random_stream(batch_size * length + 1), batch_size, tgt_len, shuffle_seed)


def weights_of(trainer: Trainer) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in trainer.model.parameters()])


@BOTH_MODELS
@pytest.mark.parametrize("micro_batch", [1, 2, 4])
def test_micro_batches_change_nothing(name, micro_batch):
    results = []
    for size in (None, micro_batch):
        trainer = make_trainer(MODELS[name](), lanes_of(8, 14), micro_batch=size, **FP64)
        updates = [trainer.update() for _ in range(6)]  # more than an epoch, whose last segment is shorter
        numbers = [(update.loss, update.grad_norm) for update in updates]
        results.append((torch.tensor(numbers, dtype=torch.float64), weights_of(trainer), [u.tokens for u in updates]))
    (numbers, weights, tokens), (split_numbers, split_weights, split_tokens) = results
    assert tokens == split_tokens == [32, 32, 32, 16, 32, 32]
    torch.testing.assert_close(split_numbers, numbers, rtol=1e-12, atol=0)
    assert_relatively_close(split_weights, weights, 1e-12)


@BOTH_MODELS
def test_the_loss_is_the_mean_over_all_tokens_of_the_segment(name):
    model, lanes = MODELS[name](), lanes_of(6, 10)
    tokens_BT, targets_BT = lanes.segment(0)
    expected = model(tokens_BT, targets_BT, model.initial_state(6))[0].mean().item()
    assert make_trainer(model, lanes, micro_batch=2, **FP64).update().loss == pytest.approx(expected, rel=1e-12)


def snapshot(trainer: Trainer) -> io.BytesIO:
    file = io.BytesIO()
    torch.save({"trainer": trainer.state_dict(), "model": trainer.model.state_dict()}, file)
    file.seek(0)
    return file


def restore(trainer: Trainer, file: io.BytesIO) -> Trainer:
    saved = torch.load(file, weights_only=True)
    trainer.model.load_state_dict(saved["model"])
    trainer.load_state_dict(saved["trainer"])
    return trainer


@pytest.mark.parametrize(
    "name, precision, reset_state, more",
    [(name, Precision.fp32, reset_state, {}) for name in MODELS for reset_state in ResetState]
    + [("txl", Precision.fp16, ResetState.epoch, {}), ("lstm", Precision.bf16, ResetState.never, {})]
    + [("txl", Precision.fp16, ResetState.never, {"window": 3, "activation_checkpointing": True})]
    + [("stack", Precision.fp32, ResetState.epoch, {"window": 2})],
)
@pytest.mark.parametrize("shuffle_seed", [None, 7])
def test_a_run_continued_at_any_step_has_the_bits_of_one_that_never_stopped(
    name, precision, reset_state, more, shuffle_seed
):
    lanes, steps = lanes_of(4, 14, shuffle_seed=shuffle_seed), 9  # epochs of 4 segments

    def fresh(seed: int) -> Trainer:
        model = MODELS[name](dtype=torch.float32, seed=seed, dropout=0.3)
        settings = {"micro_batch": 2, "precision": precision, "reset_state": reset_state} | more
        return make_trainer(model, lanes, max_steps=steps, **settings)

    torch.manual_seed(3)
    whole, snapshots, updates = fresh(seed=0), [], []
    for _ in range(steps):
        snapshots.append(snapshot(whole))
        updates.append(whole.update())
    assert len({numbers_of(update) for update in updates}) == steps
    for step, file in enumerate(snapshots):
        torch.manual_seed(step)
        resumed = restore(fresh(seed=1), file)
        again = [resumed.update() for _ in range(steps - step)]
        assert [*map(numbers_of, again)] == [*map(numbers_of, updates[step:])]
        assert torch.equal(weights_of(resumed), weights_of(whole))
        assert resumed.scaler.state_dict() == whole.scaler.state_dict()
        assert (resumed.step, resumed.tokens, resumed.epoch) == (
            whole.step,
            whole.tokens,
            whole.epoch,
        ) and whole.epoch >= 2


@BOTH_MODELS
@pytest.mark.parametrize("before, after", [(None, 1), (1, None), (2, 4)])
def test_a_run_may_continue_in_other_micro_batches(name, before, after):
    whole = make_trainer(MODELS[name](), lanes_of(4, 14), micro_batch=before, **FP64)
    whole.update()
    resumed = restore(make_trainer(MODELS[name](seed=1), lanes_of(4, 14), micro_batch=after, **FP64), snapshot(whole))
    for _ in range(5):
        assert resumed.update().loss == pytest.approx(whole.update().loss, rel=1e-12)
    assert_relatively_close(weights_of(resumed), weights_of(whole), 1e-12)


@BOTH_MODELS
def test_the_state_becomes_empty_each_epoch_or_never(name):
    losses = {}
    for reset_state in ResetState:
        trainer = make_trainer(MODELS[name](), lanes_of(3, 12), reset_state=reset_state, **FP64)
        trainer.schedule.base_lr = 0.0  # the weights stay, so that only the state can make epochs differ
        epochs = [[trainer.update().loss for _ in range(len(trainer.lanes))] for _ in range(2)]
        losses[reset_state] = torch.tensor(epochs, dtype=torch.float64)
    assert torch.equal(losses[ResetState.epoch][0], losses[ResetState.never][0])
    assert torch.equal(losses[ResetState.epoch][1], losses[ResetState.epoch][0])
    assert (losses[ResetState.never][1] - losses[ResetState.never][0])[0].abs() > 1e-6


@BOTH_MODELS
def test_the_state_is_carried_from_segment_to_segment(name):
    model, lanes = MODELS[name](), lanes_of(3, 12)
    trainer = make_trainer(model, lanes, **FP64)
    trainer.schedule.base_lr = 0.0
    losses = [trainer.update().loss for _ in range(3)]
    tokens_BT, targets_BT = lanes.segment(2)
    alone = model(tokens_BT, targets_BT, model.initial_state(3))[0].mean().item()
    assert abs(losses[2] - alone) > 1e-6
    with torch.no_grad():
        state = model.initial_state(3)
        for index, loss in enumerate(losses):
            nll_BT, state = model(*lanes.segment(index), state)
            assert_close(nll_BT.mean().item(), loss, 1e-12)

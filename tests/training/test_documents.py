"""Training on documents that reset the state: losses, micro-batches, windows and resumption."""

import numpy as np
import pytest
import torch

from tbptt.data.document_lanes import DocumentLanes
from tbptt.device import Precision
from tbptt.training.config import ResetState
from tests.documents import losses_alone
from tests.helpers import assert_relatively_close
from tests.models.tiny import random_stream, tiny_lstm, tiny_stack, tiny_txl
from tests.training.trainers import make_trainer, numbers_of

MODELS = {
    "lstm": tiny_lstm,
    "txl": tiny_txl,
    "hybrid": lambda: tiny_stack(layers=["gated_delta", "attention", "mlstm"]),
    "mamba2": lambda: tiny_stack(layers=["mamba2"]),
}
DOCUMENTS = {"reset_state": ResetState.document, "precision": Precision.fp64, "clip": 0.05}
LANES, LENGTH = 4, 31
STARTS_D = np.array([0, 5, 6, 7, 31, 60, 66, 93, 94, 100])  # lanes begin at 0, 31, 62 and 93


def lanes_of(tgt_len: int = 4, shuffle_seed: int | None = None, stream: np.ndarray | None = None) -> DocumentLanes:
    stream = random_stream(LANES * LENGTH + 1) if stream is None else stream
    return DocumentLanes(stream, STARTS_D, LANES, tgt_len, shuffle_seed)


def weights_of(trainer) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in trainer.model.parameters()])


@pytest.mark.parametrize("name", MODELS)
def test_the_losses_are_those_of_documents_alone_in_every_epoch(name):
    """A document that a lane's border cuts is two: a lane begins empty."""
    trainer = make_trainer(MODELS[name](), lanes_of(), **DOCUMENTS)
    trainer.schedule.base_lr = 0.0
    losses_BL = [
        losses_alone(
            trainer.model,
            trainer.lanes.stream[lane * LENGTH : (lane + 1) * LENGTH + 1],
            np.union1d(0, STARTS_D[(lane * LENGTH < STARTS_D) & ((lane + 1) * LENGTH > STARTS_D)] - lane * LENGTH),
            grid=4,
        )
        for lane in range(LANES)
    ]
    for update in range(2 * trainer.updates_per_epoch):
        first = update % trainer.updates_per_epoch * 4
        expected = np.mean([losses_L[first : first + 4] for losses_L in losses_BL])
        assert trainer.update().loss == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("micro_batch, window", [(1, 1), (3, 2)])
def test_micro_batches_change_nothing(name, micro_batch, window):
    whole = make_trainer(MODELS[name](), lanes_of(shuffle_seed=1), window=window, **DOCUMENTS)
    parts = make_trainer(MODELS[name](), lanes_of(shuffle_seed=1), window=window, micro_batch=micro_batch, **DOCUMENTS)
    for _ in range(10):
        assert parts.update().loss == pytest.approx(whole.update().loss, rel=1e-10)
    assert_relatively_close(weights_of(parts), weights_of(whole), 1e-9)


@pytest.mark.parametrize("name", ["lstm", "hybrid", "mamba2"])
def test_a_window_of_segments_is_one_long_segment(name):
    build = (lambda: tiny_stack(layers=["gated_delta", "slstm", "mlstm"])) if name == "hybrid" else MODELS[name]
    pieces = make_trainer(build(), lanes_of(3), window=3, **DOCUMENTS)
    whole = make_trainer(build(), lanes_of(9), **DOCUMENTS)
    for _ in range(6):
        assert pieces.update().loss == pytest.approx(whole.update().loss, rel=1e-10)
    assert_relatively_close(weights_of(pieces), weights_of(whole), 1e-9)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("step, shuffle_seed", [(3, None), (5, 1), (9, 1)])
def test_a_run_continued_at_any_step_has_the_bits_of_one_that_never_stopped(name, step, shuffle_seed):
    settings = {"window": 2} | DOCUMENTS
    straight = make_trainer(MODELS[name](), lanes_of(shuffle_seed=shuffle_seed), **settings)
    numbers = [numbers_of(straight.update()) for _ in range(12)]
    first = make_trainer(MODELS[name](), lanes_of(shuffle_seed=shuffle_seed), **settings)
    for _ in range(step):
        first.update()
    second = make_trainer(MODELS[name](), lanes_of(shuffle_seed=shuffle_seed), **settings)
    second.model.load_state_dict(first.model.state_dict())
    second.load_state_dict(first.state_dict())
    assert [numbers_of(second.update()) for _ in range(step, 12)] == numbers[step:]
    assert torch.equal(weights_of(second), weights_of(straight))


def test_without_reset_the_same_lanes_carry_the_state_across_documents():
    carried = make_trainer(tiny_lstm(), lanes_of(), **DOCUMENTS | {"reset_state": ResetState.epoch})
    reset = make_trainer(tiny_lstm(), lanes_of(), **DOCUMENTS)
    losses = [(carried.update().loss, reset.update().loss) for _ in range(3)]
    assert all(one != other for one, other in losses)

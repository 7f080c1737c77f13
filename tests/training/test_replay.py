"""An update that is recorded and replayed is the update itself, whatever changes between two of them.

CUDA graphs need a GPU. What they do is imitated here: recording changes nothing, a replay repeats the same operations
on the same memory, and the host takes no part in it.
"""

import gc
import logging
import weakref

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from tbptt.data.lanes import Lanes
from tbptt.device import Precision
from tbptt.errors import UserError
from tbptt.models import dropout
from tbptt.models.attention import single_node
from tbptt.models.protocol import InitialMemory
from tbptt.training.config import ResetState, TrainerConfig
from tbptt.training.optimizers import AdamConfig, SGDConfig
from tbptt.training.replay import GraphReplay
from tbptt.training.trainer import Trainer
from tests.models.tiny import random_stream, tiny_lstm, tiny_stack, tiny_txl
from tests.training.trainers import make_trainer


class Recording(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.calls, self.before = [], {}

    def __torch_dispatch__(self, operation, types, arguments=(), settings=None):
        settings = settings or {}
        for argument, value in [*zip(operation._schema.arguments, arguments), *self._named(operation, settings)]:
            if argument.alias_info is not None and argument.alias_info.is_write:
                for x in tensors(value):
                    self.before.setdefault(x.data_ptr(), (x, x.clone()))
        result = operation(*arguments, **settings)
        self.calls.append((operation, arguments, settings, result))
        return result

    def _named(self, operation, settings):
        return [(a, settings[a.name]) for a in operation._schema.arguments if a.name in settings]

    def replay(self):
        for operation, arguments, settings, result in self.calls:
            for old, new in zip(tensors(result), tensors(operation(*arguments, **settings)), strict=True):
                if old.data_ptr() != new.data_ptr():
                    old.copy_(new)


def tensors(value) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    return [x for part in value for x in tensors(part)] if isinstance(value, (list, tuple)) else []


class Recorder:
    """In the place of CudaGraphCapture, on a processor."""

    def __init__(self):
        self.recorded = self.replayed = 0

    def __call__(self, work):
        self.recorded += 1
        recording, generator = Recording(), torch.get_rng_state()
        with recording:
            result = work()
        for x, before in reversed(recording.before.values()):  # a recording on a GPU computes nothing
            x.data.copy_(before)
        torch.set_rng_state(generator)

        def replay():
            self.replayed += 1
            with torch.no_grad():
                recording.replay()

        return result, replay


def pair_of_trainers(build, lanes: Lanes, optimizer, **settings) -> tuple[Trainer, Trainer, Recorder]:
    """Two alike, of which the second replays."""
    recorder, trainers = Recorder(), []
    for _ in range(2):
        trainers.append(make_trainer(build(), lanes, optimizer, max_steps=40, **settings))
    trainers[1].graph_replay = GraphReplay(recorder)
    return *trainers, recorder


def lanes_of(batch_size: int, length: int) -> Lanes:
    return Lanes.cut(random_stream(batch_size * length + 1), batch_size, 4)


MODELS = {
    "txl": lambda **more: tiny_txl(**more),
    "txl_adaptive": lambda **more: tiny_txl(cutoffs=[5, 12], same_length=True, clamp_len=4, **more),
    "lstm": lambda **more: tiny_lstm(cutoffs=[5, 12], **more),
    "stack": lambda **more: tiny_stack(layers=["gated_delta", "rg_lru"], cutoffs=[5, 12], **more),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("optimizer", [AdamConfig(lr=0.01), SGDConfig(lr=0.1, momentum=0.9)])
@pytest.mark.parametrize(
    "micro_batch, reset_state, window",
    [(None, ResetState.epoch, 1), (2, ResetState.never, 1), (2, ResetState.epoch, 2)],
)
def test_replayed_updates_are_the_updates(name, optimizer, micro_batch, reset_state, window):
    """The rate changes with every step, epochs end with a shorter segment, memory is empty, fills and is full."""
    settings = {
        "precision": Precision.fp64, "micro_batch": micro_batch, "reset_state": reset_state, "window": window
    }  # fmt: skip
    plain, replayed, recorder = pair_of_trainers(MODELS[name], lanes_of(4, 34), optimizer, **settings)
    for _ in range(4 * plain.updates_per_epoch + 1):
        expected, found = plain.update(), replayed.update()
        assert found.loss == pytest.approx(expected.loss, rel=1e-12)
        assert found.grad_norm == pytest.approx(expected.grad_norm, rel=1e-11)
        assert found.lr == expected.lr
    assert recorder.replayed > 2 * plain.updates_per_epoch > recorder.recorded > 0
    for x, y in zip(plain.model.parameters(), replayed.model.parameters(), strict=True):
        torch.testing.assert_close(y, x, rtol=0, atol=1e-9)


def test_dropout_draws_new_masks_and_loss_scaling_goes_on(monkeypatch):
    for module in (dropout, single_node):  # as on a GPU, by torch, so that replays draw anew
        monkeypatch.setattr(module, "dropout_mask", lambda like, rate: F.dropout(torch.ones_like(like), rate))
    settings = {"precision": Precision.fp16, "clip": 0.25}
    build = lambda: tiny_txl(torch.float32, dropout=0.3, dropatt=0.2)  # noqa: E731
    plain, replayed, recorder = pair_of_trainers(build, lanes_of(4, 34), AdamConfig(lr=0.01), **settings)
    losses = []
    for trainer in (plain, replayed):
        torch.manual_seed(5)
        trainer.scaler._growth_interval = 3
        losses.append([trainer.update().loss for _ in range(20)])
    assert recorder.replayed > 10
    assert losses[0] == losses[1]
    assert replayed.scaler.get_scale() == plain.scaler.get_scale() != 2.0**16


def test_a_replayed_update_that_is_not_finite_is_skipped_and_states_are_emptied():
    _, trainer, recorder = pair_of_trainers(tiny_txl, lanes_of(4, 34), AdamConfig(), precision=Precision.fp64)
    for _ in range(5):
        trainer.update()
    table, replays = trainer.model.embedding.tables[0], recorder.replayed
    good = table.detach().clone()
    table.data.fill_(np.nan)
    trainer.update()
    table.data.copy_(good)
    trainer.update()
    assert recorder.replayed == replays + 2 and torch.equal(table, good)
    assert [state[0].shape[1] for state in trainer.states] == [0]
    assert np.isfinite([trainer.update().loss for _ in range(6)]).all()
    assert not torch.equal(table, good)


def test_a_checkpoint_of_a_replaying_trainer_is_that_of_any_other():
    plain, replayed, _ = pair_of_trainers(tiny_txl, lanes_of(4, 34), AdamConfig(), precision=Precision.fp64)
    for _ in range(6):
        plain.update(), replayed.update()
    saved = replayed.state_dict()
    replayed.update()  # writes where the states were when they were saved
    for x, y in zip(plain.state_dict()["lane_states"], saved["lane_states"], strict=True):
        torch.testing.assert_close(y, x, rtol=0, atol=1e-12)


def test_a_loaded_optimizer_is_the_one_that_goes_on():
    plain, replayed, recorder = pair_of_trainers(tiny_txl, lanes_of(4, 34), AdamConfig(), precision=Precision.fp64)
    saved = plain.state_dict()
    for _ in range(6):
        plain.update(), replayed.update()
    for trainer in (plain, replayed):
        trainer.load_state_dict(saved)
    before = recorder.replayed
    for _ in range(6):
        assert replayed.update().loss == pytest.approx(plain.update().loss, rel=1e-12)
    assert recorder.replayed > before
    for ours, theirs in zip(replayed.optimizer.state.values(), plain.optimizer.state.values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-15)


def test_states_that_change_their_precision_are_recorded_once_they_keep_it():
    """A memory of zeros begins in float32; that of a projected embedding goes on with what autocast gives."""
    settings = {"precision": Precision.bf16, "reset_state": ResetState.never}
    build = lambda: tiny_txl(torch.float32, initial_memory=InitialMemory.zeros, d_embed=6)  # noqa: E731
    plain, replayed, recorder = pair_of_trainers(build, lanes_of(4, 32), AdamConfig(), **settings)
    assert [plain.update().loss for _ in range(8)] == [replayed.update().loss for _ in range(8)]
    assert {memory.dtype for memory in plain.states[0]} == {torch.bfloat16}
    assert (recorder.recorded, recorder.replayed) == (1, 6)


def test_a_trainer_with_recordings_is_no_cycle():
    """Or its graphs and the memory they work in would outlive it."""
    _, trainer, _ = pair_of_trainers(tiny_txl, lanes_of(4, 34), AdamConfig(), precision=Precision.fp64)
    for _ in range(6):
        trainer.update()
    gone = weakref.ref(trainer)
    gc.disable()
    try:
        del trainer
        assert gone() is None
    finally:
        gc.enable()


def test_the_fewer_sizes_the_fewer_recordings(monkeypatch):
    """With words of many clusters, the numbers of words differ from segment to segment."""
    found = []
    for multiple in (1, 16):
        monkeypatch.setattr("tbptt.training.trainer.PADDING_MULTIPLE", multiple)
        build = lambda: tiny_txl(cutoffs=[5, 12])  # noqa: E731
        _, trainer, recorder = pair_of_trainers(build, lanes_of(4, 80), AdamConfig(), precision=Precision.fp64)
        for _ in range(3 * len(trainer.lanes)):
            trainer.update()
        found.append((recorder.recorded, len(trainer.graph_replay.capturable)))
    assert found[0][1] > 2 * found[1][1]


def test_without_a_gpu_it_says_that_it_has_no_effect(caplog):
    with caplog.at_level(logging.WARNING):
        trainer = make_trainer(tiny_txl(), lanes_of(4, 34), precision=Precision.fp64, cuda_graphs=True)
    assert "trainer.cuda_graphs=true has no effect" in caplog.text
    trainer.update()


def test_it_is_refused_together_with_activation_checkpointing():
    with pytest.raises(UserError, match=r"cuda_graphs=true cannot capture .*activation_checkpointing"):
        TrainerConfig(cuda_graphs=True, activation_checkpointing=True).check()

"""A window: its gradient is that of one long segment wherever the model does not see the cut between its segments."""

import pytest
import torch

from tbptt.data.lanes import Lanes
from tbptt.device import Precision
from tbptt.models.attention.relative import key_distances, sinusoid
from tbptt.training.config import ResetState
from tests.helpers import assert_relatively_close
from tests.models.tiny import MIXERS, random_stream, run_segments, tiny_lstm, tiny_stack, tiny_txl
from tests.training.trainers import make_trainer

FP64 = {"precision": Precision.fp64, "clip": 0.05}
LANES, LENGTH, T = 4, 23, 3  # 8 segments of an epoch, the last of 2 tokens
BLIND = {mixer: lambda mixer=mixer, **settings: tiny_stack(layers=[mixer], **settings) for mixer in MIXERS} | {
    "lstm alone": tiny_lstm,
    # With same_length, a query sees mem_len keys wherever a segment begins.
    "txl": lambda **settings: tiny_txl(mem_len=40, same_length=True, **settings),
}


def lanes_of(tgt_len: int) -> Lanes:
    return Lanes.cut(random_stream(LANES * LENGTH + 1), LANES, tgt_len)


def trained(trainer, updates: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Losses and gradient norms of the updates, and the weights after them."""
    numbers = [(update.loss, update.grad_norm) for update in (trainer.update() for _ in range(updates))]
    weights = torch.cat([parameter.detach().flatten() for parameter in trainer.model.parameters()])
    return torch.tensor(numbers, dtype=torch.float64), weights


@pytest.mark.parametrize("name", BLIND)
@pytest.mark.parametrize("window, micro_batch", [(2, None), (3, 2)])
def test_a_window_of_k_segments_is_one_segment_k_times_as_long(name, window, micro_batch):
    build = BLIND[name]
    pieces = make_trainer(build(), lanes_of(T), window=window, micro_batch=micro_batch, **FP64)
    whole = make_trainer(build(), lanes_of(window * T), **FP64)
    (numbers, weights), (expected_numbers, expected_weights) = trained(pieces, 6), trained(whole, 6)
    assert pieces.updates_per_epoch == whole.updates_per_epoch and pieces.tokens == whole.tokens
    torch.testing.assert_close(numbers, expected_numbers, rtol=1e-9, atol=0)
    assert_relatively_close(weights, expected_weights, 1e-9)


@pytest.mark.parametrize("name", ["lstm alone", "gated_delta", "txl"])
def test_a_longer_window_has_another_gradient(name):
    """The property above alone would also hold of a state that is never detached, or always."""
    norms = set()
    for window in (1, 2, 4):
        trainer = make_trainer(BLIND[name](), lanes_of(T), window=window, **FP64)
        trainer.schedule.base_lr = 0.0
        numbers, _ = trained(trainer, 8 // window)  # an epoch
        norms.add(round(numbers[0, 1].item(), 9))
    assert len(norms) == 3


def one_pass(model, tokens_BL, targets_BL, memories):
    """The losses (B, L) of segments of length T by one pass over all of them, each with the keys that it sees.

    A query of a segment sees the segment's start, and mem_len tokens before that.
    """
    L = tokens_BL.shape[1]
    M = memories[0].shape[1]
    x_BTD = model.embedding(tokens_BL)
    positions_KD = sinusoid(key_distances(M + L, model.clamp_len, like=x_BTD), model.inverse_frequency)
    query, key = torch.arange(L)[:, None], torch.arange(-M, L)
    seen_TK = (key <= query) & (key >= query // T * T - model.mem_len)
    mask_TK = torch.zeros(L, M + L, dtype=x_BTD.dtype).masked_fill(~seen_TK, -torch.inf)
    bias, inputs = (model.content_bias_HE, model.position_bias_HE), []
    for layer, memory in zip(model.layers, memories):
        inputs.append(torch.cat([memory, x_BTD], dim=1)[:, -model.mem_len :])
        x_BTD, _ = layer(x_BTD, memory, positions_KD, *bias, None, None, mask_TK)
    nll_BL = model.softmax(x_BTD.flatten(0, 1), targets_BL.flatten()).view(targets_BL.shape)
    return nll_BL, [memory.detach() for memory in inputs]


@pytest.mark.parametrize("settings", [{"mem_len": 5}, {"mem_len": 7, "pre_lnorm": True, "clamp_len": 4}])
def test_gradients_flow_into_the_memory_of_earlier_segments_of_the_window(settings):
    k, lanes = 3, lanes_of(T)
    trainer = make_trainer(tiny_txl(**settings), lanes, window=k, clip=0, precision=Precision.fp64)
    trainer.schedule.base_lr = 0.0
    model, memories = tiny_txl(**settings), list(tiny_txl(**settings).initial_state(LANES))
    for index in range(trainer.updates_per_epoch):
        part = slice(index * k * T, (index + 1) * k * T)
        tokens_BL, targets_BL = (torch.from_numpy(x[:, part]).long() for x in (lanes.tokens_BL, lanes.targets_BL))
        model.zero_grad()
        nll_BL, memories = one_pass(model, tokens_BL, targets_BL, memories)
        nll_BL.mean().backward()
        update = trainer.update()
        assert update.loss == pytest.approx(nll_BL.mean().item(), rel=1e-12)
        for ours, expected in zip(trainer.model.parameters(), model.parameters(), strict=True):
            assert_relatively_close(ours.grad, expected.grad, 1e-10)


@pytest.mark.parametrize("name", ["lstm alone", "mamba2", "attention", "txl"])
def test_segments_computed_again_have_the_same_masks_and_gradients(name):
    found = []
    for recompute in (False, True):
        torch.manual_seed(3)
        trainer = make_trainer(
            BLIND[name](dropout=0.3), lanes_of(T), window=4, activation_checkpointing=recompute, **FP64
        )
        found.append(trained(trainer, 5))
    for ours, expected in zip(*found, strict=True):
        assert_relatively_close(ours, expected, 1e-12)


@pytest.mark.parametrize("name", ["lstm alone", "gated_delta", "txl"])
def test_ordinary_training_starts_every_segment_from_the_empty_state(name):
    model, lanes = BLIND[name](), lanes_of(T)
    trainer = make_trainer(model, lanes, window=2, reset_state=ResetState.segment, **FP64)
    trainer.schedule.base_lr = 0.0
    losses = trained(trainer, trainer.updates_per_epoch)[0][:, 0]
    for index, loss in enumerate(losses.tolist()):
        pair = [lanes.segment(segment) for segment in (2 * index, 2 * index + 1)]
        alone = torch.cat([model(*segment, model.initial_state(LANES))[0] for segment in pair], dim=1)
        assert loss == pytest.approx(alone.mean().item(), rel=1e-12)


def test_the_state_after_a_window_is_that_of_its_segments():
    lanes = lanes_of(T)
    trainer = make_trainer(tiny_lstm(), lanes, window=3, **FP64)
    trainer.schedule.base_lr = 0.0
    trainer.update()
    tokens_BL, targets_BL = (torch.from_numpy(x).long() for x in (lanes.tokens_BL, lanes.targets_BL))
    _, state = run_segments(trainer.model, tokens_BL, targets_BL, [3 * T])
    for ours, expected in zip(trainer.states[0], state, strict=True):
        assert_relatively_close(ours, expected.detach(), 1e-12)
        assert not ours.requires_grad


def test_a_recomputed_window_keeps_no_activations_until_its_backward_pass():
    def saved(window: int, recompute: bool) -> int:
        """Bytes that autograd saves for the backward pass of a window while it is computed."""
        trainer = make_trainer(tiny_lstm(), lanes_of(T), window=window, activation_checkpointing=recompute, **FP64)
        sizes: dict[int, int] = {}

        def save(x: torch.Tensor) -> torch.Tensor:
            sizes[id(x)] = x.nbytes
            return x

        segments = [trainer.lanes.segment(index) for index in range(window)]
        with torch.autograd.graph.saved_tensors_hooks(save, lambda x: x):
            trainer.window(segments, trainer.states[0])
        return sum(sizes.values())

    assert saved(6, False) > 5 * saved(1, False)
    assert saved(6, True) < saved(1, False)

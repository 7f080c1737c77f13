"""The context-length experiment: losses with exactly so much context, and the published definition of the RECL."""

import numpy as np
import pytest
import torch

from experiments import context_length
from experiments.context_length import by_context, draw, effective_length, gains, measure, table, window_losses
from tbptt.data.config import Level
from tbptt.data.prepare import open_corpus
from tbptt.errors import UserError
from tbptt.models.lstm import LSTMConfig
from tbptt.models.transformer_xl import TransformerXLConfig
from tbptt.tasks.loading import TrainedModel
from tests.data.small_corpora import corpus_config, write_corpus
from tests.helpers import assert_close
from tests.models.tiny import random_stream, tiny_lstm, tiny_txl

STEP, LONGEST, T = 8, 24, 4
BUILD = {"txl": tiny_txl, "forgetful": lambda **more: tiny_txl(mem_len=0, **more), "lstm": tiny_lstm}


@torch.no_grad()
@pytest.mark.parametrize("name", BUILD)
def test_a_loss_has_just_the_context_it_is_said_to_have(name):
    model, stream = BUILD[name]().eval(), random_stream(300)
    losses_MN = by_context(window_losses(model, stream, STEP, LONGEST, 7, T), STEP)
    assert losses_MN.shape == (3, 5)
    for m, context in enumerate((8, 16, 24)):
        for n in range(5):
            target = LONGEST + n * STEP
            text = torch.from_numpy(stream[target - context : target + 1].astype(np.int64))[None]
            state = model.initial_state(1)
            for start in range(0, context, T):
                nll, state = model(text[:, start : start + T], text[:, start + 1 : start + T + 1], state)
            assert_close(losses_MN[m, n], nll[0, -1], 1e-12)


def test_a_model_without_memory_gains_nothing_beyond_its_segment():
    losses = [by_context(window_losses(BUILD[name]().eval(), random_stream(300), 4, 24, 30, T), 4) for name in BUILD]
    found = gains(np.stack(losses), 1.0)
    assert np.abs(found[1]).max() < 1e-12 < np.abs(found[0]).max()


def test_gains_are_those_of_the_definition():
    losses_IMN = np.array([[[4.0, 1.0, 2.0, 3.0], [3.0, 9.0, 1.0, 1.0]], [[5.0, 0.5, 1.0, 6.0], [9.0, 0.1, 0.1, 6.0]]])
    # The least at the short context: 4, 0.5, 1, 3. The hardest half: the first and the last position.
    (first,), (second,) = gains(losses_IMN, 0.5)
    assert first == pytest.approx(1 - np.exp((3 + 1) / 2 - (4 + 3) / 2), rel=1e-12)
    assert second == 0  # both are no better than the best of the group with a short context
    (first,), (second,) = gains(losses_IMN, 1.0)
    assert first == pytest.approx(1 - np.exp((3 + 0.5 + 1 + 1 - 8.5) / 4), rel=1e-12)
    assert second == pytest.approx(1 - np.exp((4 + 0.1 + 0.1 + 3 - 8.5) / 4), rel=1e-12)


@pytest.mark.parametrize("found, length", [([0.5, 0.01, 0.009, 0.3], 30), ([0.0], 10), ([0.2, 0.1], None)])
def test_the_effective_length_is_the_first_that_gains_too_little(found, length):
    assert effective_length(np.array(found), 10) == length


@pytest.fixture
def group(tmp_path, monkeypatch) -> None:
    """Runs of one vocabulary, and one of another."""
    text = "".join(map(chr, random_stream(400, seed=1) + 97))
    corpus = open_corpus(corpus_config(write_corpus(tmp_path / "a", text, text, text), Level.char))
    other = open_corpus(corpus_config(write_corpus(tmp_path / "b", text[::-1] + "!", text, text), Level.char))
    size = len(corpus.vocabulary)
    opened = {}
    for name, config in (
        ("txl", TransformerXLConfig(n_layer=1, d_model=8, n_head=2, d_head=4, d_inner=8, tgt_len=4, mem_len=6)),
        ("lstm", LSTMConfig(n_layer=1, d_model=8, tgt_len=8)),
    ):
        opened[name] = TrainedModel(None, config, config.build(size)), corpus
    opened["other"] = opened["lstm"][0], other
    monkeypatch.setattr(context_length, "open_run", opened.__getitem__)


def test_a_group_is_measured_told_and_drawn(group, tmp_path):
    curves = measure(["txl", "lstm"], 8, 32, 40)
    told = table(curves, 8, 32).splitlines()
    assert [line.split(" | ")[0] for line in told[2:]] == ["| txl", "| lstm"]
    assert all(line.count("|") == told[0].count("|") for line in told)
    draw(curves, 8, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "runs, step, longest, positions, words",
    [
        (["txl", "other"], 8, 16, 5, "other has another vocabulary than txl"),
        (["txl", "lstm"], 4, 16, 5, "--step 4 must be a multiple of the tgt_len of lstm, 8"),
        (["txl"], 8, 20, 5, "--longest 20 must be a multiple of --step 8"),
        (["txl"], 8, 16, 500, "--positions 500 is more than the test split of 400 tokens has"),
    ],
)
def test_what_cannot_be_compared_is_refused(group, runs, step, longest, positions, words):
    with pytest.raises(UserError, match=words):
        measure(runs, step, longest, positions)

"""The papers' models, as the files under conf/ configure them, have the published numbers of parameters, and train."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from tbptt.data.lanes import Lanes
from tbptt.training.trainer import Trainer
from tests.helpers import composed

WORDS, FAIRSEQ_ENTRIES = 267_735, 267_744


@pytest.mark.parametrize(
    "overrides, vocab_size, expected",
    [
        (["model=txl_16l"], WORDS, 151_107_538),
        (["model=txl_16l", "model.untie_r=true"], FAIRSEQ_ENTRIES, 151_123_537),
        (["model=txl_16l"], FAIRSEQ_ENTRIES, 151_111_237),
        (["model=txl_18l"], WORDS, 285_170_506),
        (["model=txl_18l", "model.untie_r=true"], WORDS, 285_205_322),
    ],
)
def test_numbers_of_parameters_are_the_published_ones(overrides, vocab_size, expected):
    with torch.device("meta"):
        model = composed(*overrides).model.build(vocab_size)
    assert sum(parameter.numel() for parameter in model.parameters()) == expected


@pytest.mark.slow
def test_the_base_model_makes_one_full_update():
    config = composed("model=txl_16l", "trainer.micro_batch=6", "trainer.device=cpu")
    torch.manual_seed(0)
    model = config.model.build(WORDS)
    B, T, cutoffs = config.data.batch_size, config.model.tgt_len, config.model.cutoffs
    assert (B, T) == (60, 150)
    B = 12  # enough to meet every parameter, at a fifth of the arithmetic
    stream = np.random.default_rng(0).integers(WORDS, size=B * T + 1, dtype=np.uint32)
    optimizer = config.optimizer.build(model.parameters())
    schedule = config.scheduler.build(config.optimizer.lr, config.trainer.max_steps)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    update = Trainer(model, Lanes.cut(stream, B, T), optimizer, schedule, config.trainer).update()

    # A fresh model knows nothing: every choice is near uniform, first among the head's entries, then within the tail.
    edges = [0, *cutoffs, WORDS]
    sizes = [high - low for low, high in pairwise(edges)]
    uniform = math.log(sizes[0] + len(cutoffs)) + sum(size / WORDS * math.log(size) for size in sizes[1:])
    assert update.loss == pytest.approx(uniform, rel=0.02)
    assert update.tokens == B * T
    assert math.isfinite(update.grad_norm) and update.grad_norm > 0
    for name, parameter in model.named_parameters():
        assert parameter.isfinite().all()
        assert not torch.equal(parameter, before[name]), f"{name} did not change"

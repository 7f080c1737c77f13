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
        (["model=mamba2_130m"], 50_288, 128_989_632),
        (["model=xlstm_7b"], 50_304, 6_865_424_896),
    ],
)
def test_numbers_of_parameters_are_the_published_ones(overrides, vocab_size, expected):
    with torch.device("meta"):
        model = composed(*overrides).model.build(vocab_size)
    assert sum(parameter.numel() for parameter in model.parameters()) == expected


def gated_delta(D, H, K, V):
    """Maps of queries, keys, values, gates and output, decays and betas, convolution, A, dt and norm."""
    return D * (2 * H * K + 3 * H * V + 2 * H) + 4 * (2 * H * K + H * V) + 2 * H + V


def mamba2(D, H, P, N):
    E = H * P
    return D * (3 * E + 2 * N + H) + 5 * (E + 2 * N) + 3 * H + E


def rg_lru(D, W, blocks):
    return 2 * (D * W + W) + W * D + D + 5 * W + 2 * (W * W // blocks + W) + W


def attention(D, H, G, E, normed):
    return D * E * (2 * H + 2 * G) + (2 * E if normed else 0)


@pytest.mark.parametrize(
    ("name", "vocab_size", "mixers", "others"),
    [
        ("mamba2_370m", 50_288, 48 * mamba2(1024, 32, 64, 128), (48 + 1) * 1024 + 50_288 * 1024),
        ("mamba2_1b3", 50_288, 48 * mamba2(2048, 64, 64, 128), (48 + 1) * 2048 + 50_288 * 2048),
        (
            "gdn_1b3", 32_000, 21 * gated_delta(2048, 6, 256, 512),
            21 * (2 * 2048 + 3 * 2048 * 5632) + 2048 + 2 * 32_000 * 2048,
        ),
        (
            "hybrid_1b3", 32_000, 18 * gated_delta(2048, 6, 256, 512) + 6 * attention(2048, 16, 16, 128, True),
            24 * (2 * 2048 + 3 * 2048 * 5632) + 2048 + 2 * 32_000 * 2048,
        ),
        (
            "griffin_2b", 256_000, 18 * rg_lru(2560, 2560, 10) + 8 * attention(2560, 10, 1, 256, False),
            26 * (2 * 2560 + 3 * 2560 * 7680) + 2560 + 256_000 * 2560,
        ),
    ],
)  # fmt: skip
def test_stacks_have_the_parameters_of_their_equations(name, vocab_size, mixers, others):
    with torch.device("meta"):
        model = composed(f"model={name}").model.build(vocab_size)
    assert sum(parameter.numel() for parameter in model.parameters()) == mixers + others


@pytest.mark.slow
def test_the_base_model_makes_an_update():
    config = composed("model=txl_16l", "data.batch_size=4", "trainer.micro_batch=2", "trainer.device=cpu")
    torch.manual_seed(0)
    model = config.model.build(WORDS)
    B, T, cutoffs = config.data.batch_size, config.model.tgt_len, config.model.cutoffs
    assert T == 150
    stream = np.random.default_rng(0).integers(WORDS, size=B * T + 1, dtype=np.uint32)
    optimizer = config.optimizer.build(model)
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

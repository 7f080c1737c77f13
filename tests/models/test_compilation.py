"""Compiled blocks compute what the definition computes, and are compiled while the first lanes fill their memory."""

import logging
import shutil
from functools import partial

import pytest
import torch
from torch._dynamo.utils import counters

from tbptt.data.lanes import Lanes
from tbptt.device import Precision, parameter_dtype
from tbptt.evaluation.config import EvalConfig
from tbptt.evaluation.score import score
from tbptt.models import alignment
from tbptt.models.attention.choice import Attention
from tbptt.models.compilation import compile_blocks
from tests.commands import make_home, train
from tests.helpers import assert_relatively_close
from tests.models.tiny import random_stream, tiny_lstm, tiny_stack, tiny_txl
from tests.training.trainers import make_trainer

pytestmark = pytest.mark.slow
NEEDS_COMPILER = pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")


# As a GPU has it, fused attention and aligned sizes: short lanes, since Triton's interpreter is slow.
GPU_LIKE = {"attention": Attention.fused, "d_model": 10, "d_head": 5, "d_inner": 21}


@pytest.fixture
def traced(monkeypatch):
    """Blocks are traced, with their gradients, but not turned into C++, which takes far longer."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))


@NEEDS_COMPILER
@pytest.mark.filterwarnings("ignore")  # what the compiler has to say of itself
def test_compiled_blocks_give_the_same_losses_and_weights():
    torch.compiler.reset()
    lanes, stream = Lanes.cut(random_stream(3 * 11 + 1), 3, 4), random_stream(30)
    models = [tiny_txl(n_layer=1) for _ in range(2)]
    compile_blocks(models[1])
    trainers = [make_trainer(model, lanes, precision=Precision.fp64) for model in models]
    for _ in range(2 * len(lanes)):
        defined, compiled = (trainer.update() for trainer in trainers)
        assert compiled.loss == pytest.approx(defined.loss, rel=1e-10)
        assert compiled.grad_norm == pytest.approx(defined.grad_norm, rel=1e-8)
    scores = [score(model, stream, EvalConfig(tgt_len=7), 4, Precision.fp64) for model in models]
    assert scores[1].loss == pytest.approx(scores[0].loss, rel=1e-10)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "settings, multiple, precision, length, tolerance",
    [({}, 1, Precision.fp64, 27, 1e-10), (GPU_LIKE, 16, Precision.fp32, 15, 1e-5)],
    ids=["plain", "fused"],
)
def test_no_length_compiles_blocks_again(settings, multiple, precision, length, tolerance, traced, monkeypatch):
    monkeypatch.setitem(alignment.ALIGNMENT, "cpu", multiple)
    torch.compiler.reset()
    lanes, stream = Lanes.cut(random_stream(3 * length + 1), 3, 4), random_stream(2 * length)
    assert length % 4 == 3  # the last segment is shorter
    models = [tiny_txl(parameter_dtype(precision), **settings) for _ in range(2)]
    compile_blocks(models[1])
    trainers = [make_trainer(model, lanes, precision=precision) for model in models]

    def assert_equal_numbers():
        updates = [[trainer.update() for _ in range(len(lanes))] for trainer in trainers]
        for defined, compiled in zip(*updates, strict=True):
            assert compiled.loss == pytest.approx(defined.loss, rel=tolerance)
            assert compiled.grad_norm == pytest.approx(defined.grad_norm, rel=100 * tolerance)
        for context in ({"tgt_len": 7, "mem_len": 9}, {"mem_len": 5, "same_length": True, "clamp_len": 3}):
            scores = [score(model, stream, EvalConfig(**context), 4, precision) for model in models]
            assert scores[1].loss == pytest.approx(scores[0].loss, rel=tolerance)

    assert_equal_numbers()
    graphs = counters["stats"]["unique_graphs"]
    assert graphs
    assert_equal_numbers()
    assert counters["stats"]["unique_graphs"] == graphs


@pytest.mark.filterwarnings("ignore")
def test_a_stack_is_compiled_but_for_mixers_that_loop_over_tokens(traced, caplog):
    torch.compiler.reset()
    counters.clear()
    models = [tiny_stack(layers=["gated_delta", "slstm"]) for _ in range(2)]
    with caplog.at_level(logging.INFO):
        compile_blocks(models[1])
    assert "Compiling 1 of Block, 1 of FeedForward" in caplog.text
    trainers = [make_trainer(model, Lanes.cut(random_stream(25), 3, 4), precision=Precision.fp64) for model in models]
    graphs = []
    for _ in range(2):  # epochs
        for _ in range(len(trainers[0].lanes)):
            defined, compiled = (trainer.update() for trainer in trainers)
            assert compiled.loss == pytest.approx(defined.loss, rel=1e-10)
            assert compiled.grad_norm == pytest.approx(defined.grad_norm, rel=1e-10)
        graphs.append(counters["stats"]["unique_graphs"])
    assert 0 < graphs[0] == graphs[1]
    weights = [torch.cat([parameter.flatten() for parameter in model.parameters()]) for model in models]
    assert_relatively_close(weights[1], weights[0], 1e-10)


def test_a_model_without_blocks_says_that_nothing_is_compiled(caplog):
    with caplog.at_level(logging.WARNING):
        compile_blocks(tiny_lstm())
    assert "trainer.compile=true has no effect" in caplog.text


def test_without_a_compiler_it_is_refused_and_nothing_is_written(tmp_path):
    home = make_home(tmp_path)
    printed = train(home, "trainer.compile=true", "trainer.device=cpu", "hydra.run.dir=none", code=1, CXX="no-compiler")
    assert printed.startswith("Error: trainer.compile=true needs a C++ compiler") and printed.count("\n") == 1
    assert not (home / "none").exists()

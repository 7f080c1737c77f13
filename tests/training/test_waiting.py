"""Neither an update nor a step of an evaluation asks the device for a number: the host would have to wait for it."""

import subprocess
import sys

import pytest
import torch
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode

from tbptt.data.lanes import Lanes
from tbptt.device import Precision
from tbptt.evaluation.config import EvalConfig
from tbptt.evaluation.score import score
from tbptt.models.attention.choice import Attention
from tbptt.models.vocabulary import linear_cross_entropy
from tbptt.training.optimizers import AdamConfig, AdamWConfig, SGDConfig
from tests.models.tiny import MIXERS, random_stream, tiny_lstm, tiny_stack, tiny_txl
from tests.training.trainers import make_trainer

# What a GPU must have finished before the host can go on: numbers, and shapes that depend on numbers.
WAITS = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "unique", "_unique2", "repeat_interleave"}
ADAPTIVE = {"cutoffs": [5, 12], "dropout": 0.1}
MODELS = {
    "txl": lambda: tiny_txl(torch.float32, dropatt=0.1, **ADAPTIVE),
    "txl_fused": lambda: tiny_txl(torch.float32, attention=Attention.fused, **ADAPTIVE),
    "lstm": lambda: tiny_lstm(torch.float32, **ADAPTIVE),
    "stack": lambda: tiny_stack(torch.float32, layers=MIXERS, **ADAPTIVE),
}


@pytest.fixture(autouse=True)
def as_on_a_gpu(monkeypatch):
    monkeypatch.setattr(linear_cross_entropy, "READ_AT_ONCE", set())


class NeverWait(TorchDispatchMode):
    def __torch_dispatch__(self, operation, types, arguments=(), settings=None):
        name = operation._schema.name.removeprefix("aten::")
        by_mask = name.startswith("index") and any(
            isinstance(x, torch.Tensor) and x.dtype is torch.bool for x in (arguments[1] or ()) if name == "index"
        )
        assert name not in WAITS and not by_mask, f"{name} waits for the device"
        return operation(*arguments, **(settings or {}))


def never_waits(function):
    def run(*arguments, **settings):
        with NeverWait():
            return function(*arguments, **settings)

    return run


@pytest.mark.parametrize("function", [lambda x: x.sum().item(), lambda x: x[x > 0], lambda x: x.nonzero(), bool])
def test_what_waits_is_noticed(function):
    with pytest.raises(AssertionError, match="waits for the device"):
        never_waits(function)(torch.ones(1))


@pytest.mark.parametrize(
    "name, optimizer, precision",
    [("txl", optimizer, Precision.fp32) for optimizer in (AdamConfig(), AdamWConfig(), SGDConfig(momentum=0.9))]
    + [("txl", AdamConfig(), precision) for precision in (Precision.bf16, Precision.fp16)]
    + [("lstm", AdamConfig(), Precision.bf16), ("txl_fused", AdamConfig(), Precision.fp32)],
)
def test_an_update_never_waits(name, optimizer, precision, monkeypatch):
    lanes = Lanes.cut(random_stream(4 * 10 + 1), 4, 4)
    trainer = make_trainer(MODELS[name](), lanes, optimizer, precision=precision, micro_batch=2)
    monkeypatch.setattr(trainer, "_compute", never_waits(trainer._compute))
    losses = [trainer.update().loss for _ in range(2)]
    assert len(set(losses)) == 2


@pytest.mark.parametrize("name", MODELS)
def test_a_step_of_an_evaluation_never_waits(name, monkeypatch):
    model, stream = MODELS[name](), random_stream(26)
    expected = score(model, stream, EvalConfig(batch_size=3), 4).loss
    monkeypatch.setattr(model, "hidden", never_waits(model.hidden))
    monkeypatch.setattr(model.softmax, "forward", never_waits(model.softmax.forward))
    assert score(model, stream, EvalConfig(batch_size=3), 4).loss == expected


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"), reason="older torch")
def test_no_model_mixes_the_tensors_of_two_devices_or_reads_a_number():
    script = [sys.executable, "-m", "tests.training.device_without_data"]
    done = subprocess.run(script, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["txl", "lstm_model", *MIXERS]

"""Trains and evaluates models on a second device whose tensors have shapes and no data.

A tensor that was left on the processor, or a number of the device that the host reads, is an error here as on a GPU,
and what is done on a processor alone is not done. The device is registered for the whole process: therefore this is a
script. `test_waiting.py` runs it.
"""

from collections.abc import Callable
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.utils import backend_registration

from tbptt.data.document_lanes import DocumentLanes
from tbptt.device import Precision
from tbptt.evaluation import score
from tbptt.evaluation.lanes import plan_documents, scored_segments
from tbptt.launch.world import SINGLE_PROCESS, World
from tbptt.models.alignment import ALIGNMENT
from tbptt.models.protocol import RecurrentModel
from tbptt.training import trainer as training
from tbptt.training.config import ResetState, TrainerConfig
from tbptt.training.optimizers import SGDConfig
from tbptt.training.schedules import ConstantConfig
from tests.models.tiny import MIXERS, random_stream, tiny_lstm, tiny_stack, tiny_txl

backend_registration._setup_privateuseone_for_python_backend("other")
torch.other.get_amp_supported_dtype = lambda: [torch.bfloat16]  # autocast asks for it
OTHER, NO_DATA = torch.device("other"), FakeTensorMode(allow_non_fake_inputs=True)
STREAM, STARTS_D = random_stream(36), np.array([0, 3, 4, 20, 30])
KNOWN_TO_WAIT = {"lstm_model", "lstm"}  # cuDNN's LSTM is cut where documents begin, which the host must know
MODELS: dict[str, Callable[..., RecurrentModel]] = {
    "txl": lambda **settings: tiny_txl(torch.float32, dropatt=0.1, cutoffs=[5, 12], div_val=2, **settings),
    "lstm_model": lambda checkpointing: tiny_lstm(torch.float32, cutoffs=[5, 12]),
} | {mixer: lambda mixer=mixer, **settings: tiny_stack(torch.float32, layers=[mixer], **settings) for mixer in MIXERS}


def move(model: RecurrentModel) -> None:
    """To the other device; `Module.to` cannot."""
    moved: dict[nn.Parameter, nn.Parameter] = {}
    with NO_DATA:
        for module in model.modules():
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    if parameter not in moved:  # tied ones stay tied
                        moved[parameter] = nn.Parameter(parameter.detach().to(OTHER))
                    module._parameters[name] = moved[parameter]
            for name, buffer in module._buffers.items():
                module._buffers[name] = NO_DATA.from_tensor(buffer).to(OTHER)


def send(x: Tensor, device: torch.device) -> Tensor:
    with NO_DATA:
        return NO_DATA.from_tensor(x).to(device)


def on_the_host(function: Callable) -> Callable:
    """What prepares a batch has data."""

    def run(*arguments, **settings):
        with unset_fake_temporarily():
            return function(*arguments, **settings)

    return run


class HostCopy:
    """No number arrives; the first two are the loss and the norm."""

    def __init__(self, x: Tensor):
        assert x.device.type == OTHER.type

    def read(self) -> list[float]:
        return [1.0, 1.0]


def train(model: RecurrentModel, reset_state: ResetState) -> None:
    """One update with all that has ways of its own: a window of two segments, micro-batches, recomputation."""
    lanes = DocumentLanes(STREAM, STARTS_D, 2, 4, shuffle_seed=1)
    lanes.part = lambda own: lanes  # type: ignore[method-assign]
    lanes.segment = on_the_host(lanes.segment)  # type: ignore[method-assign]
    optimizer = SGDConfig().build(model)
    optimizer.step = lambda: None  # type: ignore[method-assign]  # the fused kernel needs a device
    config = TrainerConfig(window=2, micro_batch=1, activation_checkpointing=True, reset_state=reset_state)
    with NO_DATA:
        trainer = training.Trainer(model, lanes, optimizer, ConstantConfig().build(0.1, 1), config, World(device=OTHER))
        trainer._send = on_the_host(trainer._send)  # type: ignore[method-assign]
        trainer.update()


def evaluate(model: RecurrentModel) -> None:
    model.send = on_the_host(model.send)  # type: ignore[method-assign]
    plan = plan_documents(len(STREAM) - 1, 4, 3, STARTS_D, not model.any_segments())
    with NO_DATA, torch.no_grad(), score.evaluating(model):
        for nll_N, _ in score._losses(model, STREAM, plan, Precision.fp32, SINGLE_PROCESS, STARTS_D):
            assert nll_N.device.type == OTHER.type


def main() -> None:
    for name, build in MODELS.items():
        model = build(checkpointing=True)
        move(model)
        train(model, ResetState.epoch if name in KNOWN_TO_WAIT else ResetState.document)
        if name not in KNOWN_TO_WAIT:
            evaluate(model)
        print(name, flush=True)


if __name__ == "__main__":
    with (
        patch.dict(ALIGNMENT, {OTHER.type: 16}),
        patch("tbptt.models.protocol.send", send),
        patch("tbptt.training.trainer.send", send),
        patch("tbptt.evaluation.score.send", send),
        patch("tbptt.evaluation.score.scored_segments", on_the_host(lambda *given: list(scored_segments(*given)))),
        patch("tbptt.training.trainer.HostCopy", HostCopy),
    ):
        main()

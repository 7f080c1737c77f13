"""A GPU gives what a processor gives, in float64, and never makes the host wait. Skipped where there is none.

What a processor gives is compared with recorded numbers elsewhere; those of Transformer-XL are compared here too.
"""

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from tbptt.data.document_lanes import DocumentLanes
from tbptt.data.lanes import Lanes
from tbptt.device import Precision, autocast
from tbptt.evaluation.config import EvalConfig
from tbptt.evaluation.score import score
from tbptt.generation.config import BeamConfig, SampleConfig
from tbptt.generation.continuation import beam_search, sample
from tbptt.launch.world import World
from tbptt.models.protocol import RecurrentModel, map_state
from tbptt.training.config import Reduce, ResetState, TrainerConfig
from tbptt.training.optimizers import AdamConfig, MuonConfig, OptimizerConfig, SGDConfig
from tbptt.training.parallel import data_parallel
from tbptt.training.schedules import ConstantConfig
from tbptt.training.trainer import Trainer
from tests.helpers import assert_close, assert_relatively_close
from tests.models.recorded import GOLDEN, MANIFEST, golden_model
from tests.models.tiny import MIXERS, random_stream, random_tokens, run_segments, tiny_lstm, tiny_stack, tiny_txl

if not torch.cuda.is_available():
    pytest.skip("needs a GPU", allow_module_level=True)

CPU, GPU = torch.device("cpu"), torch.device("cuda")
MODELS = {
    "txl": lambda **settings: tiny_txl(cutoffs=[5, 12], div_val=2, clamp_len=5, **settings),
    "lstm_model": lambda **settings: tiny_lstm(cutoffs=[5, 12], **settings),
} | {mixer: lambda mixer=mixer, **settings: tiny_stack(layers=[mixer, mixer], **settings) for mixer in MIXERS}
STREAM, STARTS = random_stream(100), np.array([0, 3, 4, 20, 50, 51, 70])


def on_both(name: str, **settings) -> tuple[RecurrentModel, RecurrentModel]:
    """The same model on a processor and on the GPU."""
    model = MODELS[name](**settings)
    return model, copy.deepcopy(model).to(GPU)


def map_location(value: Any, device: torch.device) -> Any:
    """A checkpoint is read on the host."""
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: map_location(each, device) for key, each in value.items()}
    return type(value)(map_location(each, device) for each in value) if isinstance(value, (list, tuple)) else value


def tensors_of(state) -> list[torch.Tensor]:
    found = []
    map_state(found.append, state)
    return found


RATE = 2**-7  # float32 holds it exactly: torch's kernels for GPUs read it in that precision


def make_trainer(
    model: RecurrentModel, device: torch.device, optimizer: OptimizerConfig | None = None, **settings
) -> Trainer:
    documents = settings.get("reset_state") is ResetState.document
    lanes = DocumentLanes(STREAM, STARTS, 2, 4, shuffle_seed=1) if documents else Lanes.cut(STREAM, 2, 4)
    config = TrainerConfig(**{"max_steps": 40, "precision": Precision.fp64} | settings)
    built, schedule = (optimizer or AdamConfig(lr=RATE)).build(model), ConstantConfig().build(RATE, config.max_steps)
    return Trainer(model, lanes, built, schedule, config, World(device=device))


@torch.no_grad()
@pytest.mark.parametrize("setting", MANIFEST["settings"])
@pytest.mark.parametrize("name", MANIFEST["models"])
def test_losses_of_transformer_xl_are_the_recorded_ones(name, setting):
    model, settings = golden_model(name, torch.float64).to(GPU).eval(), MANIFEST["settings"][setting]
    model.set_context(**{key: settings[key] for key in ("mem_len", "clamp_len", "same_length")})
    with np.load(GOLDEN / f"{name}.expected.npz") as recorded:
        tokens_BN, nll_LB = (torch.from_numpy(recorded[key]).to(GPU) for key in ("tokens", f"{setting}/nll64"))
    nll_BL, _ = run_segments(model, tokens_BN.T[:, :-1], tokens_BN.T[:, 1:], settings["segment_lengths"])
    assert_close(nll_BL.T, nll_LB, 1e-10)


@pytest.mark.parametrize("documents", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_losses_states_and_gradients_are_those_of_a_processor(name, documents):
    tokens_BN = random_tokens(3, 12)
    starts_BL = random_tokens(3, 11, seed=1) < 8 if documents else None
    results = []
    for model in on_both(name):
        device = next(model.parameters()).device
        starts = None if starts_BL is None else starts_BL.to(device)
        ids_BN = tokens_BN.to(device)
        nll_BL, state = run_segments(model, ids_BN[:, :-1], ids_BN[:, 1:], [4, 3, 4], starts_BL=starts)
        nll_BL.mean().backward()
        gradients = [parameter.grad for parameter in model.parameters()]
        results.append([x.detach().cpu() for x in (nll_BL, *tensors_of(state), *gradients) if x is not None])
    for ours, exact in zip(*results, strict=True):
        assert_close(ours, exact, 1e-10)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"window": 3, "activation_checkpointing": True},
        {"micro_batch": 1, "reset_state": ResetState.segment},
        {"window": 2, "reset_state": ResetState.document},
    ],
)
@pytest.mark.parametrize("name", MODELS)
def test_updates_are_those_of_a_processor(name, settings):
    checkpointing = settings.get("activation_checkpointing", False)
    models = on_both(name, **{} if name == "lstm_model" else {"checkpointing": checkpointing})
    there, here = (make_trainer(model, device, **settings) for model, device in zip(models, (CPU, GPU)))
    for _ in range(15):
        ours, exact = here.update(), there.update()
        assert_close(ours.loss, exact.loss, 1e-9)
        assert_close(ours.grad_norm, exact.grad_norm, 1e-8)


@pytest.mark.parametrize("settings", [{}, {"window": 2, "micro_batch": 1}])
@pytest.mark.parametrize("name", ["txl", *MIXERS])
def test_a_captured_update_is_the_update(name, settings):
    plain, captured = (
        make_trainer(model, GPU, cuda_graphs=graphs, **settings)
        for model, graphs in zip((MODELS[name]().to(GPU) for _ in range(2)), (False, True))
    )
    for _ in range(30):  # two epochs: the last segment of each is shorter
        assert_close(captured.update().loss, plain.update().loss, 1e-9)
    assert captured.graph_replay.graphs


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")  # "is a prototype feature"
@pytest.mark.parametrize("precision", [Precision.fp32, Precision.bf16, Precision.fp16])
@pytest.mark.parametrize("name", MODELS)
def test_an_update_never_waits_for_the_device(name, precision):
    model = MODELS[name](dropout=0.1).float().to(GPU)
    trainer = make_trainer(model, GPU, precision=precision)
    for _ in range(3):
        trainer.update()
    try:
        torch.cuda.set_sync_debug_mode("error")
        for _ in range(3):
            trainer.update()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@torch.no_grad()
@pytest.mark.parametrize("precision", [Precision.bf16, Precision.fp16])
@pytest.mark.parametrize("name", MODELS)
def test_losses_in_16_bits_are_near_those_of_float64(name, precision):
    exact, model = on_both(name)
    tokens_BN = random_tokens(3, 12)
    expected, _ = run_segments(exact, tokens_BN[:, :-1], tokens_BN[:, 1:], [4, 3, 4])
    ids_BN = tokens_BN.to(GPU)
    with autocast(GPU, precision):
        nll_BL, _ = run_segments(model.float(), ids_BN[:, :-1], ids_BN[:, 1:], [4, 3, 4])
    assert_relatively_close(nll_BL.double().cpu(), expected, 0.05)


OPTIMIZERS = [AdamConfig(lr=RATE), SGDConfig(lr=RATE, momentum=0.9), MuonConfig(lr=RATE)]


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda optimizer: optimizer.name)
@pytest.mark.parametrize("name", ["txl", "lstm_model", "gated_delta", "attention"])
def test_a_resumed_trainer_goes_on_with_the_same_optimizer_and_dropout_masks(name, optimizer):
    model = MODELS[name](dropout=0.3).to(GPU)
    trainer = make_trainer(model, GPU, optimizer)
    for _ in range(5):
        trainer.update()
    saved, weights = copy.deepcopy(trainer.state_dict()), copy.deepcopy(model.state_dict())
    expected = [trainer.update().loss for _ in range(5)]
    torch.manual_seed(99)
    model.load_state_dict(weights)
    resumed = make_trainer(model, GPU, optimizer)
    resumed.load_state_dict(map_location(saved, CPU))
    assert_close(torch.tensor([resumed.update().loss for _ in range(5)]), torch.tensor(expected), 1e-9)


@pytest.mark.parametrize("name", MODELS)
def test_scores_are_those_of_a_processor_and_of_one_lane(name):
    exact, model = on_both(name)
    for starts_D in (None, STARTS):
        expected = score(exact, STREAM, EvalConfig(batch_size=1), 4, Precision.fp64, starts_D=starts_D).loss
        for lanes in (1, 4):
            found = score(model, STREAM, EvalConfig(batch_size=lanes), 4, Precision.fp64, starts_D=starts_D).loss
            assert_close(found, expected, 1e-10)


@pytest.mark.parametrize("name", MODELS)
def test_generated_text_is_that_of_a_processor(name):
    prompt_P, texts = random_tokens(7), []
    for model, device in zip(on_both(name), (CPU, GPU)):
        model.eval()
        drawn = sample(model, prompt_P.to(device), SampleConfig(samples=3, length=10), 0, 4, Precision.fp64)
        found_BL, _ = beam_search(model, prompt_P.to(device), BeamConfig(beams=3, length=5), 4, Precision.fp64)
        texts.append((torch.stack([tokens_B for tokens_B, _ in drawn]).tolist(), found_BL.tolist()))
    assert texts[0] == texts[1]


@pytest.fixture
def nccl() -> Iterator[None]:
    """The process group of a run on GPUs, of one process."""
    dist.init_process_group("cpu:gloo,cuda:nccl", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("reduce, tolerance", [(Reduce.exact, 1e-9), (Reduce.bf16, 1e-3)])
@pytest.mark.parametrize("name", ["txl", "gated_delta"])
def test_gradients_that_nccl_has_summed_over_one_process_are_the_gradients(name, reduce, tolerance, nccl):
    alone, summed = (make_trainer(model, GPU) for model in (MODELS[name]().to(GPU) for _ in range(2)))
    summed.window = summed.ddp_window = data_parallel(summed.window, summed.world, reduce)
    for _ in range(5):
        assert_close(summed.update().loss, alone.update().loss, tolerance)

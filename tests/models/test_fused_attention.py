"""Fused attention is the plain one: outputs and every gradient, on Triton's interpreter or on a GPU if there is one."""

import copy
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tbptt.device import Precision
from tbptt.errors import UserError
from tbptt.models.attention import choice
from tbptt.models.attention.choice import Attention, pick_attention
from tbptt.models.attention.relative import causal_mask, relative_attention
from tbptt.models.documents import count_memory, tokens_since_start
from tbptt.models.protocol import RecurrentModel
from tbptt.models.transformer_xl import TransformerXLConfig
from tests.helpers import assert_relatively_close
from tests.models.tiny import random_tokens, run_segments, tiny_txl

pytest.importorskip("experiments.interpreter")
fused_relative_attention = pytest.importorskip("tbptt.models.attention.fused").fused_relative_attention
ROOT = Path(__file__).parents[2]
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
# The norm of the error over the norm: rounding of inputs, of weights and of results, each once; sums are in float32.
TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.5e-2}
SHAPES = [  # B, T, M, H, E, window
    (2, 37, 29, 2, 41, None),
    (3, 9, 0, 1, 5, None),
    (1, 70, 61, 1, 16, 33),
    (2, 5, 90, 2, 4, 40),
    (1, 1, 3, 1, 1, None),
    (2, 34, 30, 1, 64, 2),
    (1, 33, 31, 1, 130, None),
]


@pytest.fixture(autouse=True)
def poisoned_memory():
    """Memory that was asked for and not written holds NaN."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def draw_inputs(B, T, M, H, E, dtype) -> list[Tensor]:
    """q, kv, r and the two biases."""
    generator, K = torch.Generator().manual_seed(0), M + T
    shapes = (B, T, H, E), (B, K, 2, H, E), (K, H, E), (H, E), (H, E)
    return [torch.randn(shape, generator=generator).to(DEVICE, dtype) for shape in shapes]


def draw_since(B, T, seed=0) -> Tensor:
    """Of documents that start anywhere in the segment, or before it: then some of their tokens are remembered."""
    generator = torch.Generator().manual_seed(seed)
    since_BT = tokens_since_start(torch.rand(B, T, generator=generator) < 2 / T)
    return count_memory(since_BT, torch.randint(40, (B,), generator=generator)).to(DEVICE)


def plain(q_BTHE, kv_BK2HE, r_KHE, u_HE, v_HE, window, kept_BHTK=1.0, since_BT=None) -> Tensor:
    """The definition in float64, with attention weights multiplied by `kept_BHTK`."""
    K, T = len(r_KHE), q_BTHE.shape[1]
    k_BHKE, value_BHKE = kv_BK2HE.permute(2, 0, 3, 1, 4)
    eye = torch.eye(K, dtype=torch.float64, device=DEVICE).expand(*k_BHKE.shape[:2], K, K)
    mask = causal_mask(T, K, window, q_BTHE, since_BT)
    weights = relative_attention(q_BTHE.transpose(1, 2), k_BHKE, eye, r_KHE, u_HE, v_HE, mask, 0.0)
    return (weights * kept_BHTK @ value_BHKE).transpose(1, 2)


def gradients(attend, inputs: list[Tensor]) -> list[Tensor]:
    """The output and the gradients of all inputs, for a fixed random gradient of the output."""
    inputs = [x.detach().clone().requires_grad_() for x in inputs]
    y = attend(*inputs)
    y.backward(torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y))
    return [y.detach(), *(x.grad for x in inputs)]


def assert_agree(fused: list[Tensor], defined: list[Tensor], tolerance: float) -> None:
    for actual, expected in zip(fused, defined, strict=True):
        assert actual.isfinite().all()
        assert_relatively_close(actual.double(), expected, tolerance)


def both(shape, dtype, kept_BHTK=1.0, dropout=0.0, since_BT=None) -> tuple[list[Tensor], list[Tensor]]:
    *sizes, window = shape
    inputs, scale = draw_inputs(*sizes, dtype), 1 / math.sqrt(sizes[-1])
    fused = gradients(lambda *xs: fused_relative_attention(*xs, window, dropout, scale, since_BT), inputs)
    defined = gradients(lambda *xs: plain(*xs, window, kept_BHTK, since_BT), [x.double() for x in inputs])
    return fused, defined


@pytest.mark.parametrize("shape", SHAPES)
def test_outputs_and_all_gradients_are_the_plain_ones(shape):
    assert_agree(*both(shape, torch.float32), TOLERANCE[torch.float32])


@pytest.mark.parametrize("shape", [(1, 70, 37, 1, 16, None), (2, 39, 30, 1, 16, 33), (3, 5, 40, 1, 4, None)])
def test_so_they_are_where_documents_start(shape):
    since_BT = draw_since(*shape[:2])
    assert (since_BT < torch.arange(shape[1], device=DEVICE) + shape[2]).any()
    assert_agree(*both(shape, torch.float32, since_BT=since_BT), TOLERANCE[torch.float32])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [SHAPES[0], SHAPES[2]])
def test_in_half_precision_they_are_the_plain_ones_rounded(shape, dtype):
    assert_agree(*both(shape, dtype), TOLERANCE[dtype])


def test_results_repeat_bit_for_bit():
    first, second = (both(SHAPES[0], torch.float32)[0] for _ in range(2))
    assert all(torch.equal(x, y) for x, y in zip(first, second))


def dropped_weights(B, T, M, H, dropout, window=None, since_BT=None) -> tuple[Tensor, Tensor]:
    """Attention weights with and without dropout, (B, H, T, K), read off by one-hot values."""
    E = M + T
    q, kv, *rest = draw_inputs(B, T, M, H, E, torch.float32)
    kv[:, :, 1] = torch.eye(E, device=DEVICE)[:, None]
    return tuple(
        fused_relative_attention(q, kv, *rest, window, rate, 1 / math.sqrt(E), since_BT).transpose(1, 2)
        for rate in (dropout, 0.0)
    )


def test_dropout_drops_its_share_and_keeps_the_mean():
    dropped, weights = dropped_weights(B=8, T=30, M=34, H=4, dropout=0.3)
    seen = weights > 0
    ratio = (dropped / weights)[seen]
    is_kept = ratio > 0.5
    torch.testing.assert_close(ratio, is_kept / 0.7, rtol=1e-5, atol=0)
    n = len(ratio)
    assert abs(is_kept.double().mean().item() - 0.7) < 4 * math.sqrt(0.3 * 0.7 / n)


def test_dropout_is_another_at_every_lane_head_query_and_key():
    dropped, _ = dropped_weights(B=3, T=64, M=0, H=3, dropout=0.5, window=None)
    row = (dropped > 0)[:, :, -1]  # the last query sees all 64 keys
    assert len(torch.unique(row.flatten(0, 1), dim=0)) == 9
    kept = (dropped > 0)[0, 0]
    assert len(torch.unique(kept[-8:, :57], dim=0)) == 8 and len(torch.unique(kept[8:, :8], dim=1)[0]) == 8


def test_documents_change_no_mask_and_the_backward_pass_draws_it_again():
    shape, since_BT = (2, 37, 27, 1, 64, None), draw_since(2, 37)
    found = []
    for since in (None, since_BT):
        torch.manual_seed(3)
        found.append(dropped_weights(*shape[:4], 0.4, since_BT=since))
    (dropped_all, _), (dropped, weights) = found
    assert ((weights == 0) & (dropped_all > 0)).any()
    assert torch.equal(dropped > 0, (dropped_all > 0) & (weights > 0))
    torch.manual_seed(3)
    kept_BHTK = (dropped > 0).double() / 0.6
    assert_agree(*both(shape, torch.float32, kept_BHTK, dropout=0.4, since_BT=since_BT), TOLERANCE[torch.float32])


@pytest.mark.parametrize("shape", [(2, 37, 27, 2, 64, None), (1, 40, 24, 2, 64, 20)])
def test_the_backward_pass_draws_the_mask_of_the_forward_pass(shape):
    B, T, M, H, _, window = shape
    torch.manual_seed(3)
    dropped, weights = dropped_weights(B, T, M, H, 0.4, window)
    torch.manual_seed(3)
    assert_agree(*both(shape, torch.float32, (dropped > 0).double() / 0.6, dropout=0.4), TOLERANCE[torch.float32])
    assert ((dropped == 0) & (weights > 0)).any()


def losses_and_gradients(model: RecurrentModel, starts_BL: Tensor | None = None) -> list[Tensor]:
    """Of three segments: memory is empty at first, then partly filled."""
    tokens_BL, targets_BL = (random_tokens(2, 9, seed=seed).to(DEVICE) for seed in (1, 2))
    nll_BL, _ = run_segments(model, tokens_BL, targets_BL, [4, 1, 4], starts_BL=starts_BL)
    nll_BL.mean().backward()
    return [nll_BL.detach(), *(parameter.grad for parameter in model.parameters())]


@pytest.mark.parametrize(
    "settings",
    [
        {"mem_len": 3},
        {"mem_len": 0},
        {"mem_len": 9, "clamp_len": 3, "d_head": 41},
        {"mem_len": 5, "same_length": True},
        {"pre_lnorm": True, "untie_r": True, "cutoffs": [10, 20]},
    ],
)
def test_a_model_has_the_same_losses_and_gradients_with_any_memory(settings):
    fused = tiny_txl(torch.float32, attention=Attention.fused, n_layer=1, n_head=1, **settings).to(DEVICE)
    plain = copy.deepcopy(fused).double()
    plain.attention = Attention.plain
    assert_agree(losses_and_gradients(fused), losses_and_gradients(plain), 1e-5)


def test_so_it_has_where_documents_start():
    fused = tiny_txl(torch.float32, attention=Attention.fused, n_layer=1, n_head=1, mem_len=5).to(DEVICE)
    plain = copy.deepcopy(fused).double()
    plain.attention = Attention.plain
    starts_BL = (torch.arange(18).view(2, 9) % 7 == 2).to(DEVICE)
    assert_agree(losses_and_gradients(fused, starts_BL), losses_and_gradients(plain, starts_BL), 1e-5)


def test_activation_checkpointing_draws_the_same_masks():
    results = []
    for checkpointing in (False, True):
        settings = {"attention": Attention.fused, "n_layer": 1, "n_head": 1, "dropout": 0.3, "dropatt": 0.2}
        model = tiny_txl(torch.float32, checkpointing, **settings).to(DEVICE).train()
        torch.manual_seed(5)
        results.append(losses_and_gradients(model))
    assert all(torch.equal(x, y) for x, y in zip(*results))


@pytest.mark.slow
def test_the_kernels_compile_for_gpus_and_ask_for_no_more_memory_than_those_have():
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "experiments.kernels", "--heads", "48", "--capabilities", "90", "--largest"]
    printed = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout
    lines = [json.loads(line) for line in printed.splitlines()]
    assert len(lines) == 4 * 2
    assert all(line["shared_bytes"] <= 99 * 1024 for line in lines)  # of the GPUs Triton supports, the least has that


def test_the_operation_is_one_that_torch_compile_can_trace():
    inputs = [x.requires_grad_() for x in draw_inputs(2, 5, 3, 2, 4, torch.float32)]
    seed = torch.zeros(1, dtype=torch.int64, device=DEVICE)
    torch.library.opcheck(torch.ops.tbptt.relative_attention.default, (*inputs, seed, draw_since(2, 5), 8, 0.0, 0.5))


def test_auto_is_fused_on_a_gpu_where_it_can_run_and_plain_elsewhere():
    def picked(device, dtype=torch.float32, d_head=64):
        return pick_attention(Attention.auto, d_head, torch.device(device), dtype)

    assert picked("cpu") is Attention.plain
    assert picked("cuda") is Attention.fused
    assert picked("cuda", torch.float64) is picked("cuda", d_head=257) is Attention.plain
    (said,) = tiny_txl(torch.float32).notes()
    assert said == "model.attention=auto: attention is plain"


@pytest.mark.parametrize(
    "settings, precision, device, words",
    [
        ({}, Precision.fp32, "cpu", "needs a GPU"),
        ({}, Precision.fp64, "cuda", "no float64"),
        ({"d_head": 300}, Precision.bf16, "cuda", "d_head=300"),
    ],
)
def test_fused_attention_that_cannot_run_is_refused(monkeypatch, settings, precision, device, words):
    monkeypatch.setattr(choice, "INTERPRETED", False)
    config = TransformerXLConfig(attention=Attention.fused, **settings)
    with pytest.raises(UserError, match=f"model.attention=fused.*{words}.*plain"):
        config.check_precision(precision, torch.device(device))
    TransformerXLConfig(**settings).check_precision(precision, torch.device(device))

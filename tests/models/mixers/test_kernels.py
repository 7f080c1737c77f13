"""Kernels are called so that they compute the plain form; where they run, and what is said where they cannot."""

import importlib
import inspect
import logging
from importlib.metadata import PackageNotFoundError

import pytest
import torch

from tbptt.device import Precision
from tbptt.errors import UserError
from tbptt.models.documents import tokens_since_start
from tbptt.models.mixers import GatedDeltaConfig, GLAConfig, Mamba2Config, kernels
from tbptt.models.mixers.channel_decay import channel_decay_attention
from tbptt.models.mixers.delta_rule import gated_delta_rule
from tbptt.models.mixers.kernels import FUSED, Kernels, fused, pick_kernels
from tbptt.models.mixers.scalar_decay import scalar_decay_attention
from tbptt.models.stack import StackConfig
from tests.helpers import assert_relatively_close
from tests.models.mixers import loops
from tests.models.tiny import random_tokens, run_segments, tiny_stack

B, H, T, K, V = 2, 3, 37, 4, 6
FORMS = pytest.mark.parametrize("plain", FUSED, ids=lambda form: form.__name__)
MIXERS_WITH_KERNELS = ("gated_delta", "mamba2", "gla")
THEIR_LOOPS = {
    gated_delta_rule: ("fla.ops.gated_delta_rule", "naive_recurrent_gated_delta_rule"),
    scalar_decay_attention: ("fla.ops.simple_gla", "naive_recurrent_simple_gla"),
    channel_decay_attention: ("fla.ops.gla", "naive_recurrent_gla"),
}
CUDA = torch.device("cuda")


@pytest.fixture
def loops_instead(monkeypatch):
    loops.install(monkeypatch)


@pytest.fixture
def installed(monkeypatch):
    monkeypatch.setattr(kernels, "INSTALLATION_OBSTACLE", None)


def draw_inputs(plain, dtype=torch.float64):
    """q, k, v, log decay (and beta) and the initial state."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=dtype)

    k = torch.nn.functional.normalize(normal(B, H, T, K), dim=-1)
    decays = (B, H, T, K) if plain is channel_decay_attention else (B, H, T)
    gates = [-torch.nn.functional.softplus(normal(*decays))]
    if plain is gated_delta_rule:
        gates.append(normal(B, H, T).sigmoid())
    inputs = [normal(B, H, T, K), k, normal(B, H, T, V), *gates, normal(B, H, K, V)]
    return [x.requires_grad_() for x in inputs]


def draw_starts():
    """Tokens since the start of a document: one lane begins with a start, both have several, some in a row."""
    starts_BT = torch.zeros(B, T, dtype=torch.bool)
    starts_BT[0, [0, 5, 6, 30]] = starts_BT[1, [11, T - 1]] = True
    return tokens_since_start(starts_BT)


STARTS = pytest.mark.parametrize("since_BT", [None, draw_starts()], ids=["no_starts", "starts"])


def results(form, inputs, since_BT=None):
    """Outputs, final state, and the gradients of all inputs for fixed random gradients of both."""
    generator = torch.Generator().manual_seed(1)
    found = form(*inputs, 8, since_BT)
    given = [torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device) for x in found]
    return [*found, *torch.autograd.grad(found, inputs, given)]


@FORMS
@STARTS
def test_kernels_get_their_arguments_so_that_they_compute_the_plain_form(plain, since_BT, loops_instead):
    inputs = draw_inputs(plain)
    found, wanted = results(fused(plain, torch.float64), inputs, since_BT), results(plain, inputs, since_BT)
    for ours, expected in zip(found, wanted, strict=True):
        assert ours.dtype == expected.dtype
        assert_relatively_close(ours, expected, 1e-10)


@FORMS
def test_operands_are_16_bit_numbers_where_products_are_and_states_stay_float32(plain, loops_instead):
    inputs = draw_inputs(plain, torch.float32)
    found, expected = results(fused(plain, torch.bfloat16), inputs), results(plain, inputs)
    for ours, exact in zip(found, expected, strict=True):
        assert ours.dtype == torch.float32
        assert_relatively_close(ours, exact, 3e-2)
    assert not torch.equal(found[1], results(fused(plain, torch.float32), inputs)[1])


@pytest.mark.parametrize("mixer", MIXERS_WITH_KERNELS)
def test_a_stack_with_kernels_is_the_plain_one(mixer, loops_instead):
    """In losses, states and gradients, over attached segments."""
    tokens_BL, found = random_tokens(2, 14), []
    for choice in (Kernels.plain, Kernels.fused):
        model = tiny_stack(layers=[mixer], n_layer=2, kernels=choice)
        nll_BL, state = run_segments(model, tokens_BL[:, :-1], tokens_BL[:, 1:], [5, 1, 7])
        final = torch.cat([layer["S"].flatten() for layer in state])
        (nll_BL.mean() + final.square().mean()).backward()
        found.append([nll_BL, final, *(parameter.grad for parameter in model.parameters())])
    for ours, expected in zip(*found, strict=True):
        assert_relatively_close(ours, expected, 1e-8)


@pytest.mark.filterwarnings("ignore")  # of the package, where it finds no GPU
@pytest.mark.parametrize("plain", FUSED, ids=lambda form: form.__name__)
def test_stand_ins_are_like_the_package(plain):
    """The arguments of its kernels, with the same defaults; the results of its own loops, in float32."""
    name, naive_name = THEIR_LOOPS[plain]
    package, stand_in = pytest.importorskip(name), loops.MODULES[name]
    real = inspect.signature(getattr(package, stand_in.__name__)).parameters
    for argument, parameter in inspect.signature(stand_in).parameters.items():
        assert parameter.default == real[argument].default
    naive = getattr(importlib.import_module(f"{name}.naive"), naive_name)
    q, k, v, *gates, S = (x.detach().transpose(1, 2) for x in draw_inputs(plain, torch.float32))
    named = dict(zip(("g", "beta"), gates), initial_state=S.transpose(1, 2), output_final_state=True)
    found = stand_in(q, k, v, **named)
    if plain is channel_decay_attention:
        named["gk"] = named.pop("g")
    for ours, theirs in zip(found, naive(q, k, v, **named), strict=True):
        assert_relatively_close(ours, theirs, 1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@FORMS
@STARTS
def test_where_the_kernels_are_installed_they_compute_the_plain_form(plain, since_BT):
    pytest.importorskip("experiments.interpreter")
    pytest.importorskip(THEIR_LOOPS[plain][0])
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    inputs = [x.detach().to(device, torch.float32).requires_grad_() for x in draw_inputs(plain)]
    since_BT = None if since_BT is None else since_BT.to(device)
    found, expected = (results(form, inputs, since_BT) for form in (fused(plain, torch.float32), plain))
    for ours, exact in zip(found, expected, strict=True):
        assert_relatively_close(ours, exact, 5e-3 if device.type == "cuda" else 1e-5)  # a GPU rounds products to TF32


def test_auto_is_fused_in_16_bits_on_a_gpu_where_it_can_run_and_plain_elsewhere(installed):
    def picked(device="cuda", dtype=torch.bfloat16, sizes=(128, 64), choice=Kernels.auto):
        return pick_kernels(choice, sizes, torch.device(device), dtype)

    assert picked() is picked(dtype=torch.float16) is Kernels.fused
    assert picked("cpu") is picked(dtype=torch.float32) is picked(dtype=torch.float64) is Kernels.plain
    assert picked(sizes=(258, 64)) is picked(sizes=(64, 63)) is Kernels.plain
    assert picked(choice=Kernels.plain) is Kernels.plain
    assert picked(dtype=torch.float32, choice=Kernels.fused) is Kernels.fused


def test_the_log_says_what_runs(monkeypatch, installed):
    model = tiny_stack(torch.float32, layers=["gated_delta", "lstm", "mamba2"])
    assert model.notes() == ["model.kernels=auto: gated_delta is plain, mamba2 is plain"]
    monkeypatch.setattr(kernels, "fused_obstacle", lambda sizes, *_: "supports none" if sizes == (3, 4) else None)
    with torch.autocast("cpu", torch.bfloat16):
        assert model.notes() == ["model.kernels=auto: gated_delta is fused, mamba2 is plain"]
    assert tiny_stack(layers=["lstm", "attention"]).notes() == []


def test_kernels_that_no_mixer_has_are_warned_of(caplog):
    with caplog.at_level(logging.WARNING):
        tiny_stack(layers=["lstm"], kernels=Kernels.fused)
    assert "model.kernels=fused has no effect: model.layers=['lstm'] have no kernels" in caplog.text


@pytest.mark.parametrize(
    ("settings", "precision", "device", "words"),
    [
        ({}, Precision.bf16, "cpu", "needs a GPU"),
        ({}, Precision.fp64, "cuda", "no float64"),
        ({"gated_delta": GatedDeltaConfig(d_key=260)}, Precision.bf16, "cuda", "at most 256, not 260 and 64"),
        ({"layers": ["gla"], "gla": GLAConfig(d_value=7)}, Precision.bf16, "cuda", "even sizes.*not 32 and 7"),
        ({"layers": ["lstm", "mamba2"], "mamba2": Mamba2Config(d_state=3)}, Precision.bf16, "cuda", "not 3 and 32"),
    ],
)
def test_fused_kernels_that_cannot_run_are_refused(installed, settings, precision, device, words):
    with pytest.raises(UserError, match=f"model.kernels=fused.*{words}.*model.kernels=auto or plain"):
        StackConfig(kernels=Kernels.fused, **settings).check_precision(precision, torch.device(device))
    for choice in (Kernels.auto, Kernels.plain):
        StackConfig(kernels=choice, **settings).check_precision(precision, torch.device(device))


@pytest.mark.parametrize(
    ("found", "triton", "words"),
    [
        (None, True, "needs flash-linear-attention .*pip install -e '.\\[kernels\\]'"),
        ("0.5.2", True, "needs fla-core 0.6 or newer, not 0.5.2 .*pip install -e '.\\[kernels\\]'"),
        ("0.6.0", False, "needs Triton"),
    ],
)
def test_what_must_be_installed_is_said(monkeypatch, found, triton, words):
    def version(package):
        if found is None:
            raise PackageNotFoundError(package)
        return found

    monkeypatch.setattr(kernels, "version", version)
    monkeypatch.setattr(kernels, "find_spec", lambda package: triton or None)
    monkeypatch.setattr(kernels, "INSTALLATION_OBSTACLE", kernels.installation_obstacle())
    with pytest.raises(UserError, match=f"model.kernels=fused {words}.*: use model.kernels=auto or plain"):
        StackConfig(kernels=Kernels.fused).check_precision(Precision.bf16, CUDA)
    assert pick_kernels(Kernels.auto, (64, 64), CUDA, torch.bfloat16) is Kernels.plain


@pytest.mark.parametrize("release", ["0.6.0", "0.6rc1", "0.10", "1.0"])
def test_releases_that_will_do(monkeypatch, release):
    monkeypatch.setattr(kernels, "version", lambda package: release)
    monkeypatch.setattr(kernels, "find_spec", lambda package: object())
    assert kernels.installation_obstacle() is None

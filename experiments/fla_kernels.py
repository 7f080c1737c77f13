"""The kernels of flash-linear-attention against the plain forms of the mixers: how close, and (on a GPU) how fast.

    pip install -e '.[kernels]'
    python -m experiments.fla_kernels            # without a GPU: in Triton's interpreter, small, some minutes
    pip install flash-linear-attention           # the layers of fla, to compare the speed with
    python -m experiments.fla_kernels --speed    # on a GPU; not run yet
    TRITON_F32_DEFAULT=ieee python -m experiments.fla_kernels    # float32 without TF32, where kernels let one choose

One JSON line a result. An error is the norm of the difference over the norm of the plain form's result in float64: of
outputs, final states and all gradients, for a given gradient of both. "model" is a stack of two such layers: losses,
final states and the gradients of all parameters, over three attached segments. The interpreter has no TF32, and where a
GPU rounds to bfloat16 it cuts off, which doubles the errors of that precision. Speed is that of forward and backward
passes of a model with about 340 million parameters in bf16: ours carries its state, fla's own starts every time from
zeros. Without the package mamba-ssm fla's Mamba-2 has no fast path; `fast_path` says whether it has.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence

import experiments.interpreter  # isort: skip  # noqa: F401  # before tbptt and fla

import torch
from torch import Tensor
from torch.nn import functional as F

from tbptt.models.mixers import GatedDeltaConfig, GLAConfig, Mamba2Config
from tbptt.models.mixers.channel_decay import channel_decay_attention
from tbptt.models.mixers.delta_rule import gated_delta_rule
from tbptt.models.mixers.kernels import FUSED, Kernels, Recurrence, fused
from tbptt.models.protocol import detach
from tbptt.models.stack import FeedForwardKind, StackConfig

ON_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if ON_GPU else "cpu")
SHAPE = (4, 4, 333, 128, 128) if ON_GPU else (1, 2, 70, 16, 32)  # lanes, heads, tokens, sizes of keys and values
VOCABULARY, LANES, LENGTH = 32_000, 8, 2048  # of the measurements of speed


def report(**values: object) -> None:
    rounded = {key: float(f"{value:.3g}") if isinstance(value, float) else value for key, value in values.items()}
    print(json.dumps({"device": torch.cuda.get_device_name() if ON_GPU else "interpreter"} | rounded), flush=True)


def errors(found: Sequence[Tensor], exact: Sequence[Tensor]) -> list[float]:
    return [((ours.double() - x).norm() / x.norm()).item() for ours, x in zip(found, exact, strict=True)]


def compare_form(plain: Recurrence) -> None:
    """One recurrence on random inputs, gates as at the start of training."""
    B, H, T, K, V = SHAPE
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(DEVICE)

    q, k = (F.normalize(normal(B, H, T, K), dim=-1) for _ in range(2))
    decays = (B, H, T, K) if plain is channel_decay_attention else (B, H, T)
    inputs = {"q": q, "k": k, "v": normal(B, H, T, V), "log_decay": -F.softplus(normal(*decays) - 3)}
    if plain is gated_delta_rule:
        inputs["beta"] = normal(B, H, T).sigmoid()
    inputs["state"] = normal(B, H, K, V)
    given = normal(B, H, T, V), normal(B, H, K, V)

    def results(form: Recurrence, dtype: torch.dtype) -> list[Tensor]:
        leaves = [x.to(dtype).requires_grad_() for x in inputs.values()]
        found = form(*leaves, 64)
        return [*found, *torch.autograd.grad(found, leaves, [x.to(y.dtype) for x, y in zip(given, found)])]

    exact = results(plain, torch.float64)
    names = ["output", "final state", *(f"gradient of {name}" for name in inputs)]
    for what, form in {
        "plain float32": plain,
        "fused float32": fused(plain, torch.float32),
        "fused bfloat16": fused(plain, torch.bfloat16),
    }.items():
        found = errors(results(form, torch.float32), exact)
        report(form=plain.__name__, what=what, **dict(zip(names, found)))


def compare_model(mixer: str) -> None:
    """A stack in training: the plain form in float64, then both forms in float32 and bf16."""
    _, H, _, K, V = SHAPE
    sizes = {
        "gated_delta": GatedDeltaConfig(n_head=H, d_key=K, d_value=V),
        "gla": GLAConfig(n_head=H, d_key=K, d_value=V),
        "mamba2": Mamba2Config(d_head=K, d_state=V),
    }
    config = StackConfig(layers=[mixer], n_layer=2, d_model=H * V, d_inner=2 * H * V, **sizes)
    torch.manual_seed(0)
    weights = config.build(257).state_dict()
    tokens_BL = torch.randint(257, (2, SHAPE[2] + 1), generator=torch.Generator().manual_seed(1)).to(DEVICE)

    def results(kernels: Kernels, weight_dtype: torch.dtype, half: bool) -> list[Tensor]:
        config.kernels = kernels
        model = config.build(257).to(DEVICE, weight_dtype)
        model.load_state_dict(weights)
        state, losses = model.initial_state(2), []
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=half):
            for part in torch.arange(SHAPE[2], device=DEVICE).chunk(3):
                nll_BT, state = model(tokens_BL[:, part], tokens_BL[:, part + 1], state)
                losses.append(nll_BT)
        nll_BL = torch.cat(losses, dim=1)
        nll_BL.mean().backward()
        states = torch.cat([layer["S"].flatten() for layer in state])
        gradients = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
        return [nll_BL.detach(), states.detach(), gradients]

    exact = results(Kernels.plain, torch.float64, half=False)
    for kernels in (Kernels.plain, Kernels.fused):
        for half in (False, True):
            found = errors(results(kernels, torch.float32, half), exact)
            what = f"{kernels.name} {'bfloat16' if half else 'float32'}"
            report(model=mixer, what=what, **dict(zip(("losses", "final states", "gradients"), found)))


def report_speed(name: str, what: str, model: torch.nn.Module, loss: Callable[[], Tensor]) -> None:
    """The median of 20 passes, after 5 that compile and choose settings."""

    def seconds() -> float:
        torch.cuda.synchronize()
        started = time.perf_counter()
        model.zero_grad()
        with torch.autocast(DEVICE.type, torch.bfloat16):
            mean = loss()
        mean.backward()
        torch.cuda.synchronize()
        return time.perf_counter() - started

    parameters = sum(parameter.numel() for parameter in model.parameters())
    try:
        rate = LANES * LENGTH / statistics.median([seconds() for _ in range(25)][5:])
        report(speed=name, what=what, parameters=parameters, tokens_per_second=rate)
    except torch.OutOfMemoryError:
        report(speed=name, what=what, parameters=parameters, out_of_memory=True)


def measure_speed(name: str, config: StackConfig, theirs: Callable[[], torch.nn.Module]) -> None:
    tokens_BT = torch.randint(VOCABULARY, (LANES, LENGTH + 1), device=DEVICE)

    def measure_ours(kernels: Kernels) -> None:
        config.kernels = kernels
        model = config.build(VOCABULARY).to(DEVICE)
        state = model.initial_state(LANES)

        def loss() -> Tensor:
            nonlocal state
            nll_BT, after = model(tokens_BT[:, :-1], tokens_BT[:, 1:], state)
            state = detach(after)
            return nll_BT.mean()

        report_speed(name, kernels.name, model, loss)

    for kernels in (Kernels.plain, Kernels.fused):
        measure_ours(kernels)
    peer = theirs().to(DEVICE).train()
    ids_BT = tokens_BT[:, :-1]
    report_speed(name, "fla", peer, lambda: peer(input_ids=ids_BT, labels=ids_BT, use_cache=False).loss)


def speeds() -> None:
    from fla.layers import mamba2
    from fla.models import GatedDeltaNetConfig, GatedDeltaNetForCausalLM, Mamba2ForCausalLM
    from fla.models import Mamba2Config as TheirMamba2Config

    shared = {"vocab_size": VOCABULARY, "hidden_size": 1024, "tie_word_embeddings": True}
    ours = StackConfig(
        layers=["gated_delta"], n_layer=21, d_model=1024, d_inner=2816, tgt_len=LENGTH,
        gated_delta=GatedDeltaConfig(n_head=3, d_key=256, d_value=512),
    )  # fmt: skip
    theirs = GatedDeltaNetConfig(num_hidden_layers=21, num_heads=3, head_dim=256, intermediate_size=2816, **shared)
    measure_speed("gated_delta", ours, lambda: GatedDeltaNetForCausalLM(theirs))
    report(speed="mamba2", fast_path=mamba2.is_fast_path_available)
    ours = StackConfig(
        layers=["mamba2"], n_layer=48, d_model=1024, feed_forward=FeedForwardKind.none, tgt_len=LENGTH,
        mamba2=Mamba2Config(d_head=64, d_state=128),
    )  # fmt: skip
    other = TheirMamba2Config(num_hidden_layers=48, head_dim=64, state_size=128, expand=2, n_groups=1, **shared)
    measure_speed("mamba2", ours, lambda: Mamba2ForCausalLM(other))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--speed", action="store_true", help="measure the speed too; needs a GPU")
    arguments = parser.parse_args()
    if arguments.speed and not ON_GPU:
        parser.error("--speed needs a GPU")
    for recurrence in FUSED:
        compare_form(recurrence)
    for layer in ("gated_delta", "gla", "mamba2"):
        compare_model(layer)
    if arguments.speed:
        speeds()

"""Chunk forms are the recurrences that were recorded: outputs, states and gradients, for every length of a chunk."""

import pytest
import torch
from torch.nn import functional as F

from tbptt.models.mixers.chunks import channel_decay_attention, gated_delta_rule, scalar_decay_attention
from tests.models.mixers.recorded import assert_operation_agrees, cases, load, under

CHUNKS = (1, 2, 3, 7, 16, 32, 64)


def heads_first(x):
    return x.transpose(1, 2)


def gated_delta(inputs, l2norm: bool, chunk: int):
    q, k, v, g, beta = (heads_first(inputs[key]) for key in ("q", "k", "v", "g", "beta"))
    if l2norm:
        q, k = (x * torch.rsqrt(x.square().sum(-1, keepdim=True) + 1e-6) for x in (q, k))
    q, k = (x.repeat_interleave(v.shape[1] // x.shape[1], dim=1) for x in (q * q.shape[-1] ** -0.5, k))
    o, state = gated_delta_rule(q, k, v, g, beta, inputs["initial_state"], chunk)
    return {"o": heads_first(o), "final_state": state}


def ssd(inputs, softplus: bool, chunk: int):
    dt = inputs["dt"] + inputs["dt_bias"] if "dt_bias" in inputs else inputs["dt"]
    dt = heads_first(F.softplus(dt) if softplus else dt)
    x, H = heads_first(inputs["x"]), inputs["x"].shape[2]
    k, q = (heads_first(inputs[key]).repeat_interleave(H // inputs[key].shape[2], dim=1) for key in ("B", "C"))
    S = inputs["initial_states"].transpose(-1, -2)
    y, S = scalar_decay_attention(q, k, x * dt.unsqueeze(-1), inputs["A"][:, None] * dt, S, chunk)
    if "D" in inputs:
        y = y + inputs["D"][:, None, None] * x
    return {"y": heads_first(y), "final_states": S.transpose(-1, -2)}


def gla(inputs, chunk: int):
    q, k, v, g = (heads_first(inputs[key]) for key in ("q", "k", "v", "gk"))
    o, state = channel_decay_attention(q * q.shape[-1] ** -0.5, k, v, g, inputs["initial_state"], chunk)
    return {"o": heads_first(o), "final_state": state}


RUNS = {
    "op_gdn": lambda arrays, chunk: lambda inputs: gated_delta(inputs, bool(arrays["l2norm"]), chunk),
    "op_ssd": lambda arrays, chunk: lambda inputs: ssd(inputs, bool(arrays["dt_softplus"]), chunk),
    "op_gla": lambda arrays, chunk: lambda inputs: gla(inputs, chunk),
}


@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize(("name", "case"), [(name, case) for name in RUNS for case in cases(name)])
def test_operations_are_those_recorded(name, case, chunk):
    arrays = under(load(name), f"{case}/")
    assert_operation_agrees(arrays, RUNS[name](arrays, chunk), outputs=1e-10, gradients=1e-8)


@pytest.mark.parametrize(("name", "case"), [(name, case) for name in RUNS for case in cases(name)])
def test_float32_is_close_and_never_nan(name, case):
    """However fast a state is forgotten; the recorded `strong` cases have log decays of -30 a step."""
    arrays = {key: x.float() if x.is_floating_point() else x for key, x in under(load(name), f"{case}/").items()}
    tolerance = 2e-5 if case.endswith("strong") else 1e-5
    assert_operation_agrees(
        arrays, RUNS[name](arrays, 16), outputs=tolerance, gradients=5e-3 if "strong" in case else 1e-4
    )

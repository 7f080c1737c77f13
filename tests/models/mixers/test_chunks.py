"""Chunk forms are the recurrences that were recorded: outputs, states and gradients, for every length of a chunk."""

import pytest
import torch
from torch.nn import functional as F

from tbptt.models.mixers.channel_decay import channel_decay_attention
from tbptt.models.mixers.delta_rule import gated_delta_rule
from tbptt.models.mixers.low_rank_decay import low_rank_decay
from tbptt.models.mixers.mlstm import mlstm_cell
from tbptt.models.mixers.rg_lru import rg_lru
from tbptt.models.mixers.scalar_decay import scalar_decay_attention
from tests.models.mixers.recorded import assert_agrees, assert_operation_agrees, cases, load, under

CHUNKS = (1, 2, 3, 7, 16, 32, 64)


def case_of(name: str, case: str):
    arrays = under(load(name), f"{case}/")
    if (name, case) == ("op_mlstm", "floor"):  # zero up to rounding: e^-m rules the denominator, and the state is empty
        assert arrays.pop("grad/m_initial").abs().max() < 1e-10
    return arrays


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


def rwkv7(inputs, chunk: int):
    o, state = low_rank_decay(*(inputs[key] for key in "rwkvab"), inputs["initial_state"], chunk)
    return {"o": o, "final_state": state}


def mlstm(inputs, m_ref, chunk: int, eps: float = 0.0):
    state = inputs["c_initial"], inputs["n_initial"], inputs["m_initial"].squeeze(-1)
    h, C, n, m = mlstm_cell(*(inputs[key] for key in "qkvif"), *state, chunk, eps)
    scale = (m - m_ref.squeeze(-1)).exp().unsqueeze(-1)  # C and n alone depend on the path of m
    return {"h": h, "C_abs": C * scale.unsqueeze(-1), "n_abs": n * scale}


def gated_lru(inputs, empty):
    def gate(name):
        x = inputs["x"].unflatten(-1, (3, -1))
        return (torch.einsum("...hi,hij->...hj", x, inputs[f"{name}.w"]) + inputs[f"{name}.b"]).flatten(-2)

    h0 = inputs.get("h0", torch.zeros_like(inputs["x"][:, 0]))
    y = rg_lru(inputs["x"], gate("a_gate"), gate("input_gate"), inputs["a_param"], h0, empty)
    return {"y": y, "last_h": y[:, -1]}


RUNS = {
    "op_mlstm": lambda arrays, chunk: lambda inputs: mlstm(inputs, arrays["out/m_ref"], chunk),
    "op_gdn": lambda arrays, chunk: lambda inputs: gated_delta(inputs, bool(arrays["l2norm"]), chunk),
    "op_ssd": lambda arrays, chunk: lambda inputs: ssd(inputs, bool(arrays["dt_softplus"]), chunk),
    "op_rwkv7": lambda arrays, chunk: lambda inputs: rwkv7(inputs, chunk),
    "op_gla": lambda arrays, chunk: lambda inputs: gla(inputs, chunk),
}


@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize(("name", "case"), [(name, case) for name in RUNS for case in cases(name)])
def test_operations_are_those_recorded(name, case, chunk):
    arrays = case_of(name, case)
    assert_operation_agrees(arrays, RUNS[name](arrays, chunk), outputs=1e-10, gradients=1e-8)


@pytest.mark.parametrize("case", cases("op_mlstm"))
def test_eps_of_the_mlstm_is_added_where_it_was_recorded(case):
    arrays = under(load("op_mlstm"), f"{case}/")
    found = mlstm(under(arrays, "in/"), arrays["out/m_ref"], 16, eps=1e-6)
    assert_agrees(found["h"], arrays["out/h_eps1em6"], 1e-10, "h")


@pytest.mark.parametrize("case", ["fresh", "carried"])
def test_the_gated_lru_is_the_one_recorded(case):
    arrays = under(load("op_rglru"), f"{case}/")
    empty = arrays["in/first"][:, :1].double()
    assert_operation_agrees(arrays, lambda inputs: gated_lru(inputs, empty), outputs=1e-10, gradients=1e-8)


@pytest.mark.parametrize(("name", "case"), [(name, case) for name in RUNS for case in cases(name)])
def test_float32_is_close_and_never_nan(name, case):
    """However fast a state is forgotten; the recorded `strong` cases have log decays of -30 a step."""
    arrays = {key: x.float() if x.is_floating_point() else x for key, x in case_of(name, case).items()}
    tolerance = 2e-5 if case.endswith("strong") else 1e-5
    assert_operation_agrees(
        arrays, RUNS[name](arrays, 16), outputs=tolerance, gradients=5e-3 if "strong" in case else 1e-4
    )

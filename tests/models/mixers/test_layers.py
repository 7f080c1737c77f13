"""Layers are those of the reference implementations, in one pass, in pieces, and token by token."""

import pytest
import torch

from tbptt.models.mixers import GatedDeltaConfig, Mamba2Config, MLSTMConfig, RGLRUConfig, SLSTMConfig
from tbptt.models.stack import Block, StackConfig
from tests.models.mixers.recorded import assert_layer_agrees, under

WIDTH = 24


def renamed(names, **made):
    """From arrays under the reference's names to ours: by other names, or made of several."""

    def parameters(theirs):
        return {ours: theirs[name] for ours, name in names.items() if name in theirs} | {
            key.replace("__", "."): value for key, make in made.items() if (value := make(theirs)) is not None
        }

    return parameters


def test_gated_delta():
    names = {
        "query.weight": "q_proj.weight", "key.weight": "k_proj.weight", "value.weight": "v_proj.weight",
        "decay.weight": "a_proj.weight", "beta.weight": "b_proj.weight", "gate.weight": "g_proj.weight",
        "output.weight": "o_proj.weight", "A_log_G": "A_log", "dt_bias_G": "dt_bias",
        "norm_weight_V": "o_norm.weight",
    }  # fmt: skip
    config = GatedDeltaConfig(n_head=2, d_key=8, d_value=16, negative_eigenvalues=True)
    parameters = renamed(names, convolution__weight_CW=lambda theirs: theirs["conv1d.weight"][:, 0])
    assert_layer_agrees(
        config.build(WIDTH, 0, 1), "layer_gdn", parameters, lambda state: {"recurrent_state": state["S"]}
    )


def test_gated_delta_with_grouped_value_heads():
    """Qwen3-Next keeps its matrices fused, key head by key head."""
    config = GatedDeltaConfig(n_head=2, n_value_head=4, d_key=8, d_value=6, norm_eps=1e-6)
    parts = {"query": slice(0, 8), "key": slice(8, 16), "value": slice(16, 28), "gate": slice(28, 40)}

    def parameters(theirs):
        fused, small = (theirs[f"in_proj_{name}.weight"].unflatten(0, (2, -1)) for name in ("qkvz", "ba"))
        ours = {f"{name}.weight": fused[:, rows].flatten(0, 1) for name, rows in parts.items()}
        ours |= {"beta.weight": small[:, :2].flatten(0, 1), "decay.weight": small[:, 2:].flatten(0, 1)}
        names = {"A_log_G": "A_log", "dt_bias_G": "dt_bias", "norm_weight_V": "norm.weight"}
        names |= {"output.weight": "out_proj.weight"}
        return (
            ours
            | {key: theirs[name] for key, name in names.items()}
            | {"convolution.weight_CW": theirs["conv1d.weight"][:, 0]}
        )

    assert_layer_agrees(
        config.build(WIDTH, 0, 1), "layer_gdn_qwen3next", parameters, lambda state: {"recurrent_state": state["S"]}
    )


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("layer_mamba2", Mamba2Config(d_head=8, d_state=6)),
        ("layer_mamba2_groups", Mamba2Config(d_head=8, d_state=5, n_group=2, bias=True, conv_bias=False)),
    ],
)
def test_mamba2(name, config):
    sizes = {"gate": 32, "value": 32, "key": config.n_group * config.d_state, "query": config.n_group * config.d_state}
    sizes |= {"time_step": 4}

    def parameters(theirs):
        ours = {}
        for kind in ("weight", "bias"):
            if f"in_proj.{kind}" in theirs:
                parts = theirs[f"in_proj.{kind}"].split(list(sizes.values()))
                ours |= {f"{ours_name}.{kind}": part for ours_name, part in zip(sizes, parts)}
                ours[f"output.{kind}"] = theirs[f"out_proj.{kind}"]
        names = {"A_log_H": "A_log", "dt_bias_H": "dt_bias", "skip_H": "D", "norm_weight_E": "norm.weight"}
        names |= {"convolution.bias_C": "conv1d.bias"}
        return (
            ours
            | {key: theirs[name] for key, name in names.items() if name in theirs}
            | {"convolution.weight_CW": theirs["conv1d.weight"][:, 0]}
        )

    state_of = lambda state: {"recurrent_state": state["S"].transpose(-1, -2)}  # noqa: E731
    assert_layer_agrees(config.build(16, 0, 1), name, parameters, state_of)


def mlstm_parameters(theirs):
    maps = {
        "query": "q", "key": "k", "value": "v", "input_gate": "igate_preact", "forget_gate": "fgate_preact",
        "output_gate": "ogate_preact", "output": "out_proj",
    }  # fmt: skip
    names = {f"{ours}.{kind}": f"{theirs}.{kind}" for ours, theirs in maps.items() for kind in ("weight", "bias")}
    norms = {
        f"norm_{kind}_HV": theirs[f"multihead_norm.{kind}"].unflatten(0, (2, -1))
        for kind in ("weight", "bias")
        if f"multihead_norm.{kind}" in theirs
    }
    return {ours: theirs[their] for ours, their in names.items() if their in theirs} | norms


def mlstm_state(state):
    return {"m": state["m"].unsqueeze(-1), "C": state["C"], "n": state["n"]}


@pytest.mark.parametrize(("name", "bias", "eps"), [("layer_mlstm", False, 1e-6), ("layer_mlstm_eps0", True, 0.0)])
def test_mlstm(name, bias, eps):
    config = MLSTMConfig(n_head=2, d_key=6, d_value=12, bias=bias, eps=eps)
    assert_layer_agrees(config.build(WIDTH, 0, 1), name, mlstm_parameters, mlstm_state)


def test_a_block_of_mlstm_norms_and_gated_feed_forward():
    class LoneBlock(Block):
        def initial_state(self, batch_size):
            return self.mixer.initial_state(batch_size)

    def parameters(theirs):
        names = {
            "mixer_norm": "norm_mlstm", "feed_forward_norm": "norm_ffn", "feed_forward.gate": "ffn.proj_up_gate",
            "feed_forward.inner": "ffn.proj_up", "feed_forward.outer": "ffn.proj_down",
        }  # fmt: skip
        mixer = mlstm_parameters(under(theirs, "mlstm_layer."))
        return {f"mixer.{key}": value for key, value in mixer.items()} | {
            f"{ours}.weight": theirs[f"{their}.weight"] for ours, their in names.items()
        }

    config = StackConfig(
        layers=["mlstm"], d_model=16, d_inner=24, norm_eps=1e-6, mlstm=MLSTMConfig(n_head=2, d_key=4, d_value=8)
    )
    assert_layer_agrees(LoneBlock(config, 0), "layer_mlstm_block", parameters, mlstm_state)


def test_slstm():
    names = {"convolution.bias_C": "conv1d.conv.bias", "norm_weight_D": "group_norm.weight"}

    def parameters(theirs):
        ours = {key: theirs[name] for key, name in names.items()}
        ours["convolution.weight_CW"] = theirs["conv1d.conv.weight"][:, 0]
        # The reference crosses the names of these two gates, but not of their recurrent weights and biases.
        crossed = {"input_gate": "fgate", "forget_gate": "igate", "cell_input": "zgate", "output_gate": "ogate"}
        ours |= {f"{key}.weight_NIO": theirs[f"{name}.weight"].transpose(1, 2) for key, name in crossed.items()}
        ours["bias_4D"] = theirs["slstm_cell._bias_"].unflatten(0, (4, -1))
        recurrent = theirs["slstm_cell._recurrent_kernel_"].unflatten(1, (4, -1))  # (H, gate, out, in)
        return ours | {"recurrent_HE4E": recurrent.permute(0, 3, 1, 2).contiguous()}

    def state_of(state):
        scale = state["m"].exp()
        return {"y_state": state["y"], "conv_state": state["past"], "c e^m": state["c"] * scale}

    mixer = SLSTMConfig(n_head=4).build(WIDTH, 0, 1)
    assert_layer_agrees(mixer, "layer_slstm", norm_plus_one(parameters), state_of)


def norm_plus_one(parameters):
    """The reference stores its norm's weight minus one; gradients are the same."""

    def arranged(theirs):
        ours = parameters(theirs)
        is_gradient = not torch.equal(theirs["group_norm.weight"].float().double(), theirs["group_norm.weight"])
        return ours if is_gradient else ours | {"norm_weight_D": ours["norm_weight_D"] + 1}

    return arranged


def test_rg_lru():
    names = {
        "gate": "linear_y", "input": "linear_x", "output": "linear_out",
    }  # fmt: skip
    names = {f"{ours}.{kind}": f"{theirs}.{kind}" for ours, theirs in names.items() for kind in ("weight", "bias")}
    names |= {"convolution.bias_C": "conv_1d.bias", "decay_W": "rg_lru.recurrent_param"}
    for ours, theirs in (("input_gate", "input_gate"), ("recurrence_gate", "recurrent_gate")):
        names |= {f"{ours}.weight_NIO": f"rg_lru.{theirs}_weight", f"{ours}.bias_NO": f"rg_lru.{theirs}_bias"}
    parameters = renamed(names, convolution__weight_CW=lambda theirs: theirs["conv_1d.weight"][:, 0])
    mixer = RGLRUConfig(width=12, n_block=3).build(10, 0, 1)
    assert_layer_agrees(mixer, "layer_rglru", parameters, lambda state: {"rg_lru_state": state["h"]})

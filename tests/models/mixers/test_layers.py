"""Layers are those of the reference implementations, in one pass, in pieces, and token by token; documents too."""

import pytest
import torch

from tbptt.interop.families import mamba2, olmo_hybrid, qwen3_next, recurrent_gemma, xlstm
from tbptt.interop.layout import from_layout
from tbptt.models.mixers import GatedDeltaConfig, Mamba2Config, MLSTMConfig, RGLRUConfig, SLSTMConfig
from tbptt.models.stack import Block, StackConfig
from tests.models.mixers.recorded import assert_layer_agrees, under

WIDTH = 24


def arranged(mixer, layout):
    """From arrays under the reference's names to ours."""
    shapes = {name: parameter.shape for name, parameter in mixer.named_parameters()}
    return lambda theirs: from_layout(theirs, layout, shapes)


def test_gated_delta():
    config = GatedDeltaConfig(n_head=2, d_key=8, d_value=16, negative_eigenvalues=True)
    mixer = config.build(WIDTH, 0, 1)
    parameters = arranged(mixer, olmo_hybrid.mixer_layout(config))
    assert_layer_agrees(mixer, "layer_gdn", parameters, lambda state: {"recurrent_state": state["S"]})


def test_gated_delta_with_grouped_value_heads():
    config = GatedDeltaConfig(n_head=2, n_value_head=4, d_key=8, d_value=6, norm_eps=1e-6)
    mixer = config.build(WIDTH, 0, 1)
    parameters = arranged(mixer, qwen3_next.mixer_layout(config))
    assert_layer_agrees(mixer, "layer_gdn_qwen3next", parameters, lambda state: {"recurrent_state": state["S"]})


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("layer_mamba2", Mamba2Config(d_head=8, d_state=6)),
        ("layer_mamba2_groups", Mamba2Config(d_head=8, d_state=5, n_group=2, bias=True, conv_bias=False)),
    ],
)
def test_mamba2(name, config):
    mixer = config.build(16, 0, 1)
    state_of = lambda state: {"recurrent_state": state["S"].transpose(-1, -2)}  # noqa: E731
    assert_layer_agrees(mixer, name, arranged(mixer, mamba2.mixer_layout(config)), state_of)


def mlstm_state(state):
    return {"m": state["m"].unsqueeze(-1), "C": state["C"], "n": state["n"]}


@pytest.mark.parametrize(("name", "bias", "eps"), [("layer_mlstm", False, 1e-6), ("layer_mlstm_eps0", True, 0.0)])
def test_mlstm(name, bias, eps):
    config = MLSTMConfig(n_head=2, d_key=6, d_value=12, bias=bias, eps=eps)
    mixer = config.build(WIDTH, 0, 1)
    assert_layer_agrees(mixer, name, arranged(mixer, xlstm.mixer_layout(config)), mlstm_state)


def test_a_block_of_mlstm_norms_and_gated_feed_forward():
    class LoneBlock(Block):
        def initial_state(self, batch_size):
            return self.mixer.initial_state(batch_size)

    config = StackConfig(
        layers=["mlstm"], d_model=16, d_inner=24, norm_eps=1e-6, mlstm=MLSTMConfig(n_head=2, d_key=4, d_value=8)
    )
    block = LoneBlock(config, 0)
    of_mixer = arranged(block.mixer, xlstm.mixer_layout(config.mlstm))

    def parameters(theirs):
        names = {
            "mixer_norm": "norm_mlstm", "feed_forward_norm": "norm_ffn", "feed_forward.gate": "ffn.proj_up_gate",
            "feed_forward.inner": "ffn.proj_up", "feed_forward.outer": "ffn.proj_down",
        }  # fmt: skip
        mixer = {f"mixer.{key}": value for key, value in of_mixer(under(theirs, "mlstm_layer.")).items()}
        return mixer | {f"{ours}.weight": theirs[f"{their}.weight"] for ours, their in names.items()}

    assert_layer_agrees(block, "layer_mlstm_block", parameters, mlstm_state)


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
        return {"y_state": state["y"]} | {key: state[key] for key in "cnm"}

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
    config = RGLRUConfig(width=12, n_block=3)
    mixer = config.build(10, 0, 1)
    parameters = arranged(mixer, recurrent_gemma.recurrent_layout(config))
    assert_layer_agrees(mixer, "layer_rglru", parameters, lambda state: {"rg_lru_state": state["h"]})

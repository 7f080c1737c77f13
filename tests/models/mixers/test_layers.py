"""Layers are those of the reference implementations, in one pass, in pieces, and token by token."""

import torch

from tbptt.models.mixers.gated_delta import GatedDeltaConfig
from tbptt.models.mixers.mamba2 import Mamba2Config
from tests.models.mixers.recorded import assert_layer_agrees, load


def last_three(past):
    """Our past inputs (B, 3, C) as the reference keeps them, (B, C, 4) of which only three matter."""
    return past.transpose(1, 2)


def test_gated_delta():
    arrays = load("layer_gdn")
    config = GatedDeltaConfig(
        n_head=2, d_key=8, d_value=16, negative_eigenvalues=bool(arrays.get("beta_doubled", torch.tensor(True)))
    )
    names = {
        "query.weight": "q_proj.weight", "key.weight": "k_proj.weight", "value.weight": "v_proj.weight",
        "decay.weight": "a_proj.weight", "beta.weight": "b_proj.weight", "gate.weight": "g_proj.weight",
        "output.weight": "o_proj.weight", "A_log_G": "A_log", "dt_bias_G": "dt_bias",
        "norm_weight_V": "o_norm.weight",
    }  # fmt: skip

    def parameters(theirs):
        return {ours: theirs[name] for ours, name in names.items()} | {
            "convolution.weight_CW": theirs["conv1d.weight"][:, 0]
        }

    assert_layer_agrees(config.build(24, 0, 1), "layer_gdn", parameters, lambda state: {"recurrent_state": state["S"]})

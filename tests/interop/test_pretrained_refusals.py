"""A pretrained model that is not supported, or damaged, is refused in one sentence that names what is wrong."""

import json

import pytest
import torch
from safetensors.torch import save_file

from tbptt.errors import UserError
from tbptt.interop import hf
from tests.interop.pretrained import NAMES, copied, weights_of


def refusal(folder) -> str:
    with pytest.raises(UserError) as refused:
        hf.build(folder)
    said = str(refused.value)
    assert "\n" not in said and len(said) < 500
    return said


def change_config(folder, *left_out, **changes) -> None:
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps({key: config[key] for key in config if key not in left_out}))


def rope(**changes):
    return {"rope_parameters": {"rope_type": "default", "rope_theta": 65536.0} | changes}


@pytest.mark.parametrize(
    "name, changes, said",
    [
        ("mamba2", {"model_type": "mamba"}, "model_type=mamba, which must be one of transfo-xl, mamba2"),
        ("mamba2", {"model_type": ["mamba2"]}, "model_type=['mamba2']"),
        ("mamba2", {"hidden_act": "gelu"}, "hidden_act=gelu, which must be silu"),
        ("mamba2", {"time_step_limit": [0.0, 0.1]}, "time_step_limit=[0.0, 0.1]"),
        ("mamba2", {"sliding_window": 16}, "sliding_window=16, a setting that is not known of mamba2 models"),
        ("mamba2", {"num_heads": 5}, "num_heads=5"),
        ("mamba2", {"n_groups": 3}, "n_group=3"),
        ("mamba2", {"hidden_size": "wide"}, "hidden_size='wide'"),
        ("mamba2", {"hidden_size": None}, "hidden_size=None"),
        ("mamba2", {"use_bias": 1}, "use_bias=1"),
        ("mamba2", {"num_hidden_layers": True}, "num_hidden_layers=True"),
        ("mamba2", {"num_hidden_layers": 3}, "lack 'backbone.layers.2.mixer.A_log'"),
        ("mamba2", {"num_hidden_layers": 1}, "hold 'backbone.layers.1.mixer.A_log'"),
        ("mamba2", {"num_hidden_layers": 0}, "n_layer=0"),
        ("mamba2", {"vocab_size": 49}, "'backbone.embeddings.weight' has the shape (50, 32)"),
        ("mamba2", {"vocab_size": 0}, "vocab_size=0"),
        ("mamba2", {"tie_word_embeddings": False}, "lack 'lm_head.weight'"),
        ("mamba2", {"use_conv_bias": False}, "conv1d.bias"),
        ("mamba2", {"quantization_config": {"bits": 4}}, "quantization_config"),
        ("xlstm", {"tie_word_embeddings": True}, "tie_word_embeddings=True"),
        ("xlstm", {"weight_mode": "fused"}, "weight_mode=fused"),
        ("xlstm", {"use_bias": True}, "use_bias=True"),
        ("xlstm", {"add_out_norm": False}, "add_out_norm=False"),
        ("xlstm", {"embedding_dim": 32}, "embedding_dim=32, which must be hidden_size=64"),
        ("xlstm", {"gate_soft_cap": 0}, "gate_cap=0.0 must be positive"),
        ("xlstm", {"num_heads": 0}, "describe no xlstm model"),
        ("xlstm", {"output_logit_soft_cap": 0.0}, "logit_cap=0.0"),
        ("olmo_hybrid", {"attention_bias": True}, "attention_bias=True"),
        ("olmo_hybrid", {"layer_types": ["sliding_attention"] * 4}, "layer_types=sliding_attention"),
        ("olmo_hybrid", {"layer_types": ["linear_attention"] * 3}, "3 layer_types, but num_hidden_layers=4"),
        ("olmo_hybrid", {"layer_types": 5}, "describe no olmo_hybrid model"),
        ("olmo_hybrid", {"rope_parameters": None}, "no rope_theta"),
        ("olmo_hybrid_rope", rope(rope_type="yarn", factor=4.0), "rope_type=yarn"),
        ("olmo_hybrid_rope", rope(factor=4.0), "factor=4.0"),
        ("olmo_hybrid_rope", rope(rope_theta=0.0), "rotary_base=0.0 must be positive"),
        ("olmo_hybrid", {"linear_key_head_dim": 7.5}, "linear_key_head_dim=7.5"),
        ("olmo_hybrid", {"num_key_value_heads": "two"}, "num_key_value_heads='two'"),
        ("qwen3_5", {"": 1}, "=1, a setting that is not known"),
        ("qwen3_5", {"rms_norm_eps": {"__float__": "abc"}}, "describe no qwen3_5_text model"),
        ("qwen3_next", {"mlp_only_layers": [0, 1, 3]}, "mixture of num_experts=2 experts in layer 2"),
        ("qwen3_next", {"mlp_only_layers": None}, "mixture of num_experts=2 experts in layer 0"),
        ("qwen3_next", {"rope_scaling": {"type": "linear", "factor": 2}}, "type=linear"),
        ("qwen3_next", {"attention_dropout": 0.1}, "attention_dropout=0.1"),
        ("qwen3_next", {"head_dim": 15}, "rotary_share=0.25"),
        ("qwen3_5", {"num_experts": 4}, "num_experts=4, a setting that is not known of qwen3_5_text models"),
        ("qwen3_5", {"model_type": "qwen3_5_moe_text"}, "model_type=qwen3_5_moe_text"),
        ("recurrent_gemma", {"block_types": ["recurrent", "mamba"]}, "block_types=mamba"),
        ("recurrent_gemma", {"hidden_activation": "relu"}, "hidden_activation=relu"),
    ],
)
def test_settings_that_are_not_supported_are_named(tmp_path, name, changes, said):
    folder = copied(name, tmp_path)
    change_config(folder, **changes)
    assert said in refusal(folder)


def test_settings_that_are_off_or_of_no_influence_are_passed_over(tmp_path):
    folder = copied("mamba2", tmp_path)
    changes = {"sliding_window": None, "use_sliding_window": False, "_name_or_path": "x", "torch_dtype": "float32"}
    change_config(folder, **changes, norm_before_gate=True, time_step_limit=[0.0, float("inf")])
    hf.build(folder)


@pytest.mark.parametrize("name", NAMES)
def test_a_weight_of_another_shape_is_named(tmp_path, name):
    """None is reshaped because the count of its elements fits."""
    folder = copied(name, tmp_path)
    weights = weights_of(folder)
    for part in ("conv", "q_proj", "in_proj", "mixer.norm", "up", "embed"):
        key = next((key for key in weights if part in key), None)
        if key is not None:
            save_file(weights | {key: weights[key].flatten().unsqueeze(1)}, folder / "model.safetensors")
            assert key in (said := refusal(folder)) or "conv1d" in said


@pytest.mark.parametrize("name", ["mamba2", "olmo_hybrid", "qwen3_5"])
def test_a_weight_that_is_missing_or_not_known_is_named(tmp_path, name):
    folder = copied(name, tmp_path)
    weights = weights_of(folder)
    for key in list(weights)[::4]:
        save_file({each: value for each, value in weights.items() if each != key}, folder / "model.safetensors")
        said = refusal(folder)
        # OLMo-Hybrid's norms are named as its modules have them.
        assert f"lack '{key}'" in said or (name == "olmo_hybrid" and "_layernorm.weight" in said)
    save_file(weights | {"model.more.weight": torch.zeros(2)}, folder / "model.safetensors")
    assert "hold 'model.more.weight'" in refusal(folder)


def test_tied_weights_that_differ_are_refused(tmp_path):
    folder = copied("mamba2", tmp_path)
    weights = weights_of(folder)
    table = weights["backbone.embeddings.weight"]
    save_file(weights | {"lm_head.weight": table.clone()}, folder / "model.safetensors")
    assert sum(parameter.numel() for parameter in hf.build(folder).parameters()) == 16_216
    save_file(weights | {"lm_head.weight": table + 1}, folder / "model.safetensors")
    assert "lm_head.weight and backbone.embeddings.weight differ" in refusal(folder)

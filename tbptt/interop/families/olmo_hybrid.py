"""OLMo-Hybrid of transformers: Gated DeltaNet and, with its norms after the branches, attention to all earlier tokens.

Its files do not have the names of its modules: two norms are called otherwise, and the convolution is cut in thirds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from tbptt.errors import UserError
from tbptt.interop.families import convolutions, delta_hybrid
from tbptt.interop.families.family import WHERE, Family, Settings, convolution, ends, feed_forward, mixer, rotary
from tbptt.interop.layout import Layout, one_each
from tbptt.models.mixers import AttentionConfig, GatedDeltaConfig
from tbptt.models.mixers.attention import QueryKeyNorm
from tbptt.models.stack import StackConfig

LINEAR = {
    "query.weight": "q_proj.weight", "key.weight": "k_proj.weight", "value.weight": "v_proj.weight",
    "decay.weight": "a_proj.weight", "beta.weight": "b_proj.weight", "gate.weight": "g_proj.weight",
    "output.weight": "o_proj.weight", "A_log_G": "A_log", "dt_bias_G": "dt_bias", "norm_weight_V": "o_norm.weight",
}  # fmt: skip
ATTENTION = {
    "query.weight": "q_proj.weight", "key.weight": "k_proj.weight", "value.weight": "v_proj.weight",
    "output.weight": "o_proj.weight", "query_norm_weight": "q_norm.weight", "key_norm_weight": "k_norm.weight",
}  # fmt: skip
NORMS_AFTER = {
    "mixer_norm.weight": "post_attention_layernorm.weight",
    "feed_forward_norm.weight": "post_feedforward_layernorm.weight",
}
MODULES = {"attention_layer_norm": "input_layernorm", "feedforward_layer_norm": "post_attention_layernorm"}
UNSTATED = "unstated"
OUTPUT_NORM_EPS = 1e-5  # whatever rms_norm_eps is


def config(settings: Settings) -> StackConfig:
    s, heads = settings, settings["num_attention_heads"]
    theta = (s["rope_parameters"] or {}).get("rope_theta", s["rope_theta"])
    if theta == UNSTATED:
        raise UserError(
            f"{WHERE} has no rope_theta, which versions of transformers understand in different ways: write null for "
            "no rotary positions, else their base"
        )
    base, share = (AttentionConfig.rotary_base, 0.0) if theta is None else rotary(s)
    key_heads = s["linear_num_key_heads"] or heads
    d_key = s["linear_key_head_dim"] or int(0.75 * s["hidden_size"] / key_heads)
    return StackConfig(
        n_layer=s["num_hidden_layers"],
        d_model=s["hidden_size"],
        layers=delta_hybrid.layers(s, period=4),
        d_inner=s["intermediate_size"],
        norm_eps=s["rms_norm_eps"],
        norm_after=["attention"],
        tie_weight=s["tie_word_embeddings"],
        gated_delta=GatedDeltaConfig(
            n_head=key_heads,
            n_value_head=s["linear_num_value_heads"] or heads,
            d_key=d_key,
            d_value=s["linear_value_head_dim"] or 2 * d_key,
            conv_width=s["linear_conv_kernel_dim"],
            negative_eigenvalues=s["linear_allow_neg_eigval"],
            norm_eps=OUTPUT_NORM_EPS,
        ),
        attention=AttentionConfig(
            n_head=heads,
            n_kv_head=s["num_key_value_heads"] or heads,
            d_head=s["hidden_size"] // heads,
            window=None,
            rotary_share=share,
            rotary_base=base,
            qk_norm=QueryKeyNorm.all,
            norm_eps=s["rms_norm_eps"],
        ),
    )


def settings(config: StackConfig) -> dict[str, Any]:
    theta = config.attention.rotary_base if config.attention.rotary_share else None
    return delta_hybrid.shared_settings(config) | {
        "linear_allow_neg_eigval": config.gated_delta.negative_eigenvalues,
        "rope_parameters": {"rope_theta": theta, "rope_type": "default"},
    }


def mixer_layout(config: GatedDeltaConfig) -> Layout:
    return one_each(LINEAR) | {"conv1d.weight": convolution(config.conv_width)}


def layout(config: StackConfig) -> Layout:
    layout = ends(config, "model.embed_tokens.weight", "model.norm.weight")
    for i, each in enumerate(config.mixers()):
        there = f"model.layers.{i}."
        if isinstance(each, GatedDeltaConfig):
            layout |= mixer(mixer_layout(each), i, f"{there}linear_attn.")
            layout |= one_each(delta_hybrid.NORMS, f"layers.{i}.", there)
        else:
            layout |= mixer(one_each(ATTENTION), i, f"{there}self_attn.")
            layout |= one_each(NORMS_AFTER, f"layers.{i}.", there)
        layout |= feed_forward(i, f"{there}mlp.")
    return layout


def loaded(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return convolutions.joined(_renamed(weights, MODULES))


def saved(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The convolution is cut in equal thirds, whatever the widths."""
    names = {module: there for there, module in MODULES.items()}
    return convolutions.cut(_renamed(weights, names), lambda _, value: value.chunk(3))


def _renamed(weights: Mapping[str, Tensor], modules: Mapping[str, str]) -> dict[str, Tensor]:
    named = dict[str, Tensor]()
    for name, value in weights.items():
        for before, after in modules.items():
            name = name.replace(f".{before}.", f".{after}.")
        named[name] = value
    return named


FAMILY = Family(
    model_type="olmo_hybrid",
    architecture="OlmoHybridForCausalLM",
    mixers=frozenset(delta_hybrid.MIXERS.values()),
    defaults={
        "vocab_size": 100352, "hidden_size": 3840, "intermediate_size": 11008, "num_hidden_layers": 32,
        "num_attention_heads": 30, "num_key_value_heads": None, "rms_norm_eps": 1e-6, "tie_word_embeddings": False,
        "layer_types": None, "linear_num_key_heads": None, "linear_num_value_heads": None, "linear_key_head_dim": None,
        "linear_value_head_dim": None, "linear_conv_kernel_dim": 4, "linear_allow_neg_eigval": True,
        "rope_parameters": None, "rope_theta": UNSTATED, "rope_scaling": None,
        "partial_rotary_factor": 1.0,
    },
    fixed={"hidden_act": "silu", "attention_bias": False, "attention_dropout": 0.0},
    ignored=frozenset({
        "linear_a_log_max", "linear_a_log_min", "linear_dt_init_floor", "linear_dt_max", "linear_dt_min",
    }),
    config=config,
    settings=settings,
    layout=layout,
    loaded=loaded,
    saved=saved,
)  # fmt: skip

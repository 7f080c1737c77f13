"""RecurrentGemma of transformers, a Griffin: two recurrent layers, then one of attention to a window."""

from __future__ import annotations

from typing import Any

import torch

from tbptt.errors import UserError
from tbptt.interop.families.family import (
    FEED_FORWARD,
    WHERE,
    Family,
    Settings,
    convolution,
    ends,
    mixer,
    rotary,
)
from tbptt.interop.layout import Layout, one_each
from tbptt.models.mixers import AttentionConfig, RGLRUConfig
from tbptt.models.norms import Norm
from tbptt.models.stack import FeedForwardKind, StackConfig

MIXERS = {"recurrent": "rg_lru", "attention": "attention"}
MAPS = {"gate": "linear_y", "input": "linear_x", "output": "linear_out"}
GATES = {"input_gate": "input_gate", "recurrence_gate": "recurrent_gate"}
ATTENTION = {
    "query.weight": "q_proj.weight", "key.weight": "k_proj.weight", "value.weight": "v_proj.weight",
    "output.weight": "o_proj.weight", "output.bias": "o_proj.bias",
}  # fmt: skip
NORMS = {"mixer_norm.weight": "temporal_pre_norm.weight", "feed_forward_norm.weight": "channel_pre_norm.weight"}


def config(settings: Settings) -> StackConfig:
    s, heads = settings, settings["num_attention_heads"]
    if unknown := [each for each in s["block_types"] if each not in MIXERS]:
        raise UserError(f"{WHERE} has block_types={unknown[0]}, which must be {' or '.join(MIXERS)}")
    base, share = rotary(s)
    return StackConfig(
        n_layer=s["num_hidden_layers"],
        d_model=s["hidden_size"],
        layers=[MIXERS[each] for each in s["block_types"]],
        feed_forward=FeedForwardKind.geglu,
        feed_forward_bias=True,
        d_inner=s["intermediate_size"] // 2,
        norm=Norm.rms_plus_one,
        norm_eps=s["rms_norm_eps"],
        tie_weight=s["tie_word_embeddings"],
        scale_embedding=True,
        # The factor is a bfloat16 there, whatever the weights are.
        embedding_scale=torch.tensor(s["hidden_size"] ** 0.5, dtype=torch.bfloat16).item(),
        logit_cap=float(s["logits_soft_cap"]),
        rg_lru=RGLRUConfig(width=s["lru_width"] or s["hidden_size"], n_block=heads, conv_width=s["conv1d_width"]),
        attention=AttentionConfig(
            n_head=heads,
            n_kv_head=s["num_key_value_heads"] or heads,
            d_head=s["hidden_size"] // heads,
            window=s["attention_window_size"],
            rotary_share=share,
            rotary_base=base,
            output_bias=True,
        ),
    )


def settings(config: StackConfig) -> dict[str, Any]:
    recurrent, attention = config.rg_lru, config.attention
    words = {name: word for word, name in MIXERS.items()}
    return {
        "num_hidden_layers": config.n_layer,
        "hidden_size": config.d_model,
        "block_types": [words[each.NAME] for each in config.mixers()],
        "intermediate_size": 2 * config.d_inner,
        "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tie_weight,
        "logits_soft_cap": config.logit_cap or 0.0,
        "lru_width": recurrent.width or config.d_model,
        "conv1d_width": recurrent.conv_width,
        "num_attention_heads": attention.n_head,
        "num_key_value_heads": attention.kv_heads,
        "attention_window_size": attention.window or 0,
        "rope_parameters": {
            "rope_theta": attention.rotary_base,
            "partial_rotary_factor": attention.rotary_share,
            "rope_type": "default",
        },
    }


def recurrent_layout(config: RGLRUConfig) -> Layout:
    names = {f"{here}.{kind}": f"{there}.{kind}" for here, there in MAPS.items() for kind in ("weight", "bias")}
    for here, there in GATES.items():
        names |= {f"{here}.weight_NIO": f"rg_lru.{there}_weight", f"{here}.bias_NO": f"rg_lru.{there}_bias"}
    names |= {"convolution.bias_C": "conv_1d.bias", "decay_W": "rg_lru.recurrent_param"}
    return one_each(names) | {"conv_1d.weight": convolution(config.conv_width)}


def layout(config: StackConfig) -> Layout:
    layout = ends(config, "model.embed_tokens.weight", "model.final_norm.weight")
    inner = FEED_FORWARD | {
        key.replace("weight", "bias"): name.replace("weight", "bias") for key, name in FEED_FORWARD.items()
    }
    for i, each in enumerate(config.mixers()):
        there = f"model.layers.{i}."
        own = recurrent_layout(each) if isinstance(each, RGLRUConfig) else one_each(ATTENTION)
        layout |= mixer(own, i, f"{there}temporal_block.")
        layout |= one_each(NORMS, f"layers.{i}.", there)
        layout |= one_each(inner, f"layers.{i}.feed_forward.", f"{there}mlp_block.")
    return layout


FAMILY = Family(
    model_type="recurrent_gemma",
    architecture="RecurrentGemmaForCausalLM",
    mixers=frozenset(MIXERS.values()),
    defaults={
        "vocab_size": 256000, "hidden_size": 2560, "intermediate_size": 7680, "num_hidden_layers": 26,
        "num_attention_heads": 10, "num_key_value_heads": None, "rms_norm_eps": 1e-6, "tie_word_embeddings": True,
        "lru_width": None, "attention_window_size": 2048, "conv1d_width": 4, "logits_soft_cap": 30.0,
        "block_types": ["recurrent", "recurrent", "attention"], "rope_parameters": None, "rope_theta": 10_000.0,
        "rope_scaling": None, "partial_rotary_factor": 0.5,
    },
    fixed={
        "hidden_activation": "gelu_pytorch_tanh", "attention_bias": False, "attention_dropout": 0.0,
        "embeddings_scale_by_sqrt_dim": True,
    },
    ignored=frozenset({"final_w_init_variance_scale", "head_dim", "w_init_variance_scale"}),
    config=config,
    settings=settings,
    layout=layout,
)  # fmt: skip

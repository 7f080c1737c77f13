"""Mamba-2 of transformers: one matrix for all inputs of a mixer, no feed-forward layers."""

from __future__ import annotations

import math
from typing import Any

from tbptt.errors import UserError
from tbptt.interop.families.family import WHERE, Family, Settings, convolution, ends, mixer
from tbptt.interop.layout import Layout, Stored, one_each
from tbptt.models.mixers import Mamba2Config
from tbptt.models.stack import FeedForwardKind, StackConfig

INPUTS = ("gate", "value", "key", "query", "time_step")  # in the order of in_proj's rows
NAMES = {"A_log_H": "A_log", "dt_bias_H": "dt_bias", "skip_H": "D", "norm_weight_E": "norm.weight"}


def config(settings: Settings) -> StackConfig:
    s = settings
    if s["expand"] * s["hidden_size"] != s["num_heads"] * s["head_dim"]:
        raise UserError(
            f"{WHERE} has expand={s['expand']} times hidden_size={s['hidden_size']}, which must be "
            f"num_heads={s['num_heads']} times head_dim={s['head_dim']}"
        )
    return StackConfig(
        n_layer=s["num_hidden_layers"],
        d_model=s["hidden_size"],
        layers=["mamba2"],
        feed_forward=FeedForwardKind.none,
        norm_eps=s["layer_norm_epsilon"],
        tie_weight=s["tie_word_embeddings"],
        mamba2=Mamba2Config(
            expand=float(s["expand"]),
            d_head=s["head_dim"],
            d_state=s["state_size"],
            n_group=s["n_groups"],
            conv_width=s["conv_kernel"],
            bias=s["use_bias"],
            conv_bias=s["use_conv_bias"],
            norm_eps=s["layer_norm_epsilon"],
        ),
    )


def settings(config: StackConfig) -> dict[str, Any]:
    c = config.mamba2
    return {
        "num_hidden_layers": config.n_layer,
        "hidden_size": config.d_model,
        "layer_norm_epsilon": config.norm_eps,
        "tie_word_embeddings": config.tie_weight,
        "expand": int(c.expand) if c.expand == int(c.expand) else c.expand,
        "num_heads": int(c.expand * config.d_model) // c.d_head,
        "head_dim": c.d_head,
        "state_size": c.d_state,
        "n_groups": c.n_group,
        "conv_kernel": c.conv_width,
        "use_bias": c.bias,
        "use_conv_bias": c.conv_bias,
    }


def mixer_layout(config: Mamba2Config) -> Layout:
    layout = one_each(NAMES) | {"conv1d.weight": convolution(config.conv_width)}
    if config.conv_bias:
        layout["conv1d.bias"] = Stored(("convolution.bias_C",))
    for kind in ("weight", "bias") if config.bias else ("weight",):
        layout[f"in_proj.{kind}"] = Stored(tuple(f"{name}.{kind}" for name in INPUTS))
        layout[f"out_proj.{kind}"] = Stored((f"output.{kind}",))
    return layout


def layout(config: StackConfig, embedding: str = "backbone.embeddings.weight") -> Layout:
    layout = ends(config, embedding, "backbone.norm_f.weight")
    for i in range(config.n_layer):
        layout |= mixer(mixer_layout(config.mamba2), i, f"backbone.layers.{i}.mixer.")
        layout |= one_each({f"layers.{i}.mixer_norm.weight": f"backbone.layers.{i}.norm.weight"})
    return layout


FAMILY = Family(
    model_type="mamba2",
    architecture="Mamba2ForCausalLM",
    mixers=frozenset({"mamba2"}),
    defaults={
        "hidden_size": 4096, "num_heads": 128, "head_dim": 64, "vocab_size": 32768, "state_size": 128,
        "num_hidden_layers": 64, "layer_norm_epsilon": 1e-5, "expand": 2.0, "conv_kernel": 4, "n_groups": 8,
        "use_bias": False, "use_conv_bias": True, "tie_word_embeddings": False,
    },
    fixed={"hidden_act": "silu", "rms_norm": True, "time_step_limit": [0.0, math.inf]},
    ignored=frozenset({
        "chunk_size", "intermediate_size", "norm_before_gate", "rescale_prenorm_residual", "residual_in_fp32",
        "time_step_floor", "time_step_init_scheme", "time_step_max", "time_step_min", "time_step_rank",
        "time_step_scale",
    }),
    config=config,
    settings=settings,
    layout=layout,
)  # fmt: skip

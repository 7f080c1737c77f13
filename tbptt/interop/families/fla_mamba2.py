"""Mamba-2 of flash-linear-attention: transformers' model_type and weights, with other settings and defaults."""

from __future__ import annotations

import math

from tbptt.interop.families import fla, mamba2
from tbptt.interop.families.family import Settings, Source
from tbptt.models.stack import StackConfig

OWN = "norm_eps"  # transformers' settings have another name for it
NO_LIMIT = [0.0, math.inf]


def config(settings: Settings) -> StackConfig:
    s = settings
    heads = s["num_heads"] or s["expand"] * s["hidden_size"] / s["head_dim"]
    return mamba2.config({**s, "num_heads": heads, "layer_norm_epsilon": s[OWN]})


SOURCE = Source(
    model_type="mamba2",
    defaults={
        **{key: value for key, value in mamba2.FAMILY.defaults.items() if key != "layer_norm_epsilon"},
        OWN: 1e-5, "hidden_size": 2048, "num_heads": None, "vocab_size": 32000, "num_hidden_layers": 48, "n_groups": 1,
    },
    fixed={
        "D_has_hdim": False, "dt_limit": NO_LIMIT, "hidden_act": "silu", "norm_before_gate": False, "rms_norm": True,
        "rmsnorm": True, "time_step_limit": NO_LIMIT,
    },
    ignored=(fla.IGNORED | mamba2.FAMILY.ignored | {"A_init_range", "conv_init", "dt_init_floor", "dt_max", "dt_min"})
    - {"norm_before_gate"},
    config=config,
    layout=mamba2.layout,
)  # fmt: skip

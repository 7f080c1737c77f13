"""Gated linear attention of flash-linear-attention."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from tbptt.errors import UserError
from tbptt.interop.families import fla
from tbptt.interop.families.family import WHERE, Family, Settings
from tbptt.interop.layout import Layout, one_each
from tbptt.models.mixers import GLAConfig
from tbptt.models.stack import StackConfig

DECAY_RANK = 16  # there is no setting for it
FUSED, UNFUSED = ".g_norm_swish_gate.", ".g_norm."  # the norm's name with fuse_norm, and without
NAMES = {
    "query.weight": "q_proj.weight", "key.weight": "k_proj.weight", "value.weight": "v_proj.weight",
    "decay_in.weight": "gk_proj.0.weight", "decay_out.weight": "gk_proj.1.weight", "decay_out.bias": "gk_proj.1.bias",
    "gate.weight": "g_proj.weight", "output.weight": "o_proj.weight", "norm_weight_V": "g_norm_swish_gate.weight",
}  # fmt: skip


def config(settings: Settings) -> StackConfig:
    s, heads = settings, settings["num_heads"]
    if s["num_kv_heads"] not in (None, heads):
        raise UserError(f"{WHERE} has num_kv_heads={s['num_kv_heads']}, which must be num_heads={heads}")
    widths = {factor: fla.expanded(s, "hidden_size", factor) for factor in ("expand_k", "expand_v")}
    for factor, width in widths.items():
        if width % heads:
            raise UserError(
                f"{WHERE} has {factor}={s[factor]} times hidden_size={s['hidden_size']}, which must be a multiple of "
                f"num_heads={heads}"
            )
    return StackConfig(
        **fla.shared_config(s),
        layers=["gla"],
        gla=GLAConfig(
            n_head=heads,
            d_key=widths["expand_k"] // heads,
            d_value=widths["expand_v"] // heads,
            decay_rank=DECAY_RANK,
            norm_eps=s["norm_eps"],
        ),
    )


def settings(config: StackConfig) -> dict[str, Any]:
    c = config.gla
    return fla.shared_settings(config) | {
        "num_heads": c.n_head,
        "expand_k": c.n_head * c.d_key / config.d_model,
        "expand_v": c.n_head * c.d_value / config.d_model,
    }


def layout(config: StackConfig) -> Layout:
    return fla.layout(config, one_each(NAMES))


def loaded(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.replace(UNFUSED, FUSED): value for name, value in weights.items()}


FAMILY = Family(
    model_type="gla",
    architecture="GLAForCausalLM",
    mixers=frozenset({"gla"}),
    defaults={
        **fla.DEFAULTS, "num_hidden_layers": 24, "num_heads": 4, "num_kv_heads": None, "expand_k": 0.5, "expand_v": 1.0,
    },
    fixed={
        **fla.FIXED, "clamp_min": None, "elementwise_affine": True, "feature_map": None, "use_output_gate": True,
        "use_short_conv": False,
    },
    ignored=fla.IGNORED | {"conv_size", "share_conv_kernel", "use_gk", "use_gv"},
    config=config,
    settings=settings,
    layout=layout,
    loaded=loaded,
)  # fmt: skip

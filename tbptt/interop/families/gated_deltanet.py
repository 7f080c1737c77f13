"""Gated DeltaNet of flash-linear-attention."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from tbptt.errors import UserError
from tbptt.interop.families import convolutions, fla, olmo_hybrid
from tbptt.interop.families.family import WHERE, Family, Settings
from tbptt.interop.layout import Layout
from tbptt.models.mixers import GatedDeltaConfig
from tbptt.models.stack import StackConfig

GATES = ("swish", "silu")  # two names of one function


def config(settings: Settings) -> StackConfig:
    s = settings
    if s["output_gate_activation"] not in GATES:
        raise UserError(
            f"{WHERE} has output_gate_activation={s['output_gate_activation']}, which must be {' or '.join(GATES)}"
        )
    return StackConfig(
        **fla.shared_config(s),
        layers=["gated_delta"],
        gated_delta=GatedDeltaConfig(
            n_head=s["num_heads"],
            n_value_head=s["num_v_heads"],
            d_key=s["head_dim"],
            d_value=fla.expanded(s, "head_dim", "expand_v"),
            conv_width=s["conv_size"],
            negative_eigenvalues=s["allow_neg_eigval"],
            norm_eps=s["norm_eps"],
        ),
    )


def settings(config: StackConfig) -> dict[str, Any]:
    c = config.gated_delta
    return fla.shared_settings(config) | {
        "num_heads": c.n_head,
        "num_v_heads": c.value_heads,
        "head_dim": c.d_key,
        "expand_v": c.d_value / c.d_key,
        "conv_size": c.conv_width,
        "allow_neg_eigval": c.negative_eigenvalues,
        "output_gate_activation": GATES[0],
    }


def layout(config: StackConfig) -> Layout:
    return fla.layout(config, olmo_hybrid.mixer_layout(config.gated_delta))


def saved(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    def three(prefix: str, value: Tensor) -> tuple[Tensor, ...]:
        return value.split([len(weights[f"{prefix}{part}_proj.weight"]) for part in "qkv"])

    return convolutions.cut(weights, three)


FAMILY = Family(
    model_type="gated_deltanet",
    architecture="GatedDeltaNetForCausalLM",
    mixers=frozenset({"gated_delta"}),
    defaults={
        **fla.DEFAULTS, "num_hidden_layers": 21, "num_heads": 6, "num_v_heads": None, "head_dim": 256, "expand_v": 2.0,
        "conv_size": 4, "allow_neg_eigval": False, "output_gate_activation": GATES[0],
    },
    fixed={**fla.FIXED, "use_gate": True, "use_short_conv": True},
    ignored=fla.IGNORED,
    config=config,
    settings=settings,
    layout=layout,
    loaded=convolutions.joined,
    saved=saved,
)  # fmt: skip

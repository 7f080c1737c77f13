"""xLSTM of transformers, the large form: layers of mLSTM, each with a feed-forward layer."""

from __future__ import annotations

import math
from typing import Any

from tbptt.errors import UserError
from tbptt.interop.families.family import WHERE, Family, Settings, ends, mixer
from tbptt.interop.layout import Layout, Stored, one_each
from tbptt.models.mixers import MLSTMConfig
from tbptt.models.stack import StackConfig

MAPS = {"query": "q", "key": "k", "value": "v", "output_gate": "ogate_preact", "output": "out_proj"}
GATES = {"input_gate": "igate_preact", "forget_gate": "fgate_preact"}
SAME = {"embedding_dim": "hidden_size", "num_blocks": "num_hidden_layers"}  # second names of two settings
WIDTH_MULTIPLE = 64  # of all keys of a layer together, and of all values


def config(settings: Settings) -> StackConfig:
    s = settings
    for key, same in SAME.items():
        if s[key] not in (None, s[same]):
            raise UserError(f"{WHERE} has {key}={s[key]}, which must be {same}={s[same]}")
    keys, values = (_rounded(s["hidden_size"] * s[f"{key}_dim_factor"], WIDTH_MULTIPLE) for key in ("qk", "v"))
    return StackConfig(
        n_layer=s["num_hidden_layers"],
        d_model=s["hidden_size"],
        layers=["mlstm"],
        d_inner=_rounded(s["hidden_size"] * s["ffn_proj_factor"], s["ffn_round_up_to_multiple_of"]),
        norm_eps=s["norm_eps"],
        tie_weight=False,
        logit_cap=float(s["output_logit_soft_cap"]),
        mlstm=MLSTMConfig(
            n_head=s["num_heads"],
            d_key=keys // s["num_heads"],
            d_value=values // s["num_heads"],
            gate_cap=float(s["gate_soft_cap"]),
            eps=s["eps"],
            norm_eps=s["norm_eps"],
        ),
    )


def _rounded(number: float, multiple: int) -> int:
    return int((number + multiple - 1) // multiple * multiple)


def settings(config: StackConfig) -> dict[str, Any]:
    c, D, multiple = config.mlstm, config.d_model, math.gcd(config.d_inner, WIDTH_MULTIPLE)
    inner = config.d_inner / D
    if _rounded(D * inner, multiple) != config.d_inner:  # the quotient was rounded down
        inner = (config.d_inner + 0.5) / D
    return {
        "num_hidden_layers": config.n_layer,
        "hidden_size": D,
        "num_heads": c.n_head,
        "qk_dim_factor": c.n_head * c.d_key / D,
        "v_dim_factor": c.n_head * c.d_value / D,
        "ffn_proj_factor": inner,
        "ffn_round_up_to_multiple_of": multiple,
        "norm_eps": config.norm_eps,
        "eps": c.eps,
        "gate_soft_cap": c.gate_cap,
        "output_logit_soft_cap": config.logit_cap or 0.0,
    }


def mixer_layout(config: MLSTMConfig) -> Layout:
    kinds = ("weight", "bias") if config.bias else ("weight",)
    names = {f"{here}.{kind}": f"{there}.{kind}" for here, there in MAPS.items() for kind in kinds}
    names |= {f"{here}.{kind}": f"{there}.{kind}" for here, there in GATES.items() for kind in ("weight", "bias")}
    norms = {f"multihead_norm.{kind}": Stored((f"norm_{kind}_HV",), shape=(-1,)) for kind in kinds}
    return one_each(names) | norms


def layout(config: StackConfig) -> Layout:
    layout = ends(config, "backbone.embeddings.weight", "backbone.out_norm.weight")
    for i in range(config.n_layer):
        layout |= mixer(mixer_layout(config.mlstm), i, f"backbone.blocks.{i}.mlstm_layer.")
        names = {"mixer_norm": "norm_mlstm", "feed_forward_norm": "norm_ffn"}
        names |= {f"feed_forward.{here}": f"ffn.{there}" for here, there in FEED_FORWARD.items()}
        weights = {f"{here}.weight": f"{there}.weight" for here, there in names.items()}
        layout |= one_each(weights, f"layers.{i}.", f"backbone.blocks.{i}.")
    return layout


FEED_FORWARD = {"gate": "proj_up_gate", "inner": "proj_up", "outer": "proj_down"}
FAMILY = Family(
    model_type="xlstm",
    architecture="xLSTMForCausalLM",
    mixers=frozenset({"mlstm"}),
    defaults={
        "vocab_size": 50304, "hidden_size": 4096, "embedding_dim": None, "num_hidden_layers": 32, "num_blocks": None,
        "num_heads": 8, "norm_eps": 1e-6, "qk_dim_factor": 0.5, "v_dim_factor": 1.0,
        "eps": 1e-6, "ffn_proj_factor": 2.667, "ffn_round_up_to_multiple_of": 64, "gate_soft_cap": 15.0,
        "output_logit_soft_cap": 30.0,
    },
    # transformers has no xLSTM with tied tables: it leaves the second one at random values.
    fixed={"use_bias": False, "add_out_norm": True, "weight_mode": "single", "tie_word_embeddings": False},
    ignored=frozenset({
        "autocast_kernel_dtype", "chunk_size", "chunkwise_kernel", "inference_state_dtype", "max_inference_chunksize",
        "mode", "norm_reduction_force_float32", "return_last_states", "sequence_kernel", "step_kernel",
    }),
    config=config,
    settings=settings,
    layout=layout,
)  # fmt: skip

"""Mamba-2 as its authors store it (mamba_ssm): the settings of the mixer in ssm_cfg, a padded vocabulary."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

from tbptt.errors import UserError
from tbptt.interop.families import mamba2
from tbptt.interop.families.family import WHERE, Settings, Source
from tbptt.models.stack import StackConfig

MIXER = "ssm_cfg"
NORM_EPS = 1e-5  # its MambaConfig has no such setting


def flat(given: Settings) -> dict[str, Any]:
    """Those of the mixer come under names such as ssm_cfg.d_state."""
    mixer = given[MIXER]
    if not isinstance(mixer, Mapping):
        raise UserError(f"{WHERE} has {MIXER}={mixer}, which must be settings such as {{'layer': 'Mamba2'}}")
    # What is not named is a Mamba of the first kind.
    return {"ssm_cfg.layer": "Mamba1", **given, **{f"{MIXER}.{key}": value for key, value in mixer.items()}}


def config(settings: Settings) -> StackConfig:
    s = settings
    return mamba2.config({
        "num_hidden_layers": s["n_layer"],
        "hidden_size": s["d_model"],
        "layer_norm_epsilon": NORM_EPS,
        "tie_word_embeddings": s["tie_embeddings"],
        "expand": s["ssm_cfg.expand"],
        "num_heads": s["ssm_cfg.expand"] * s["d_model"] / s["ssm_cfg.headdim"],
        "head_dim": s["ssm_cfg.headdim"],
        "state_size": s["ssm_cfg.d_state"],
        "n_groups": s["ssm_cfg.ngroups"],
        "conv_kernel": s["ssm_cfg.d_conv"],
        "use_bias": s["ssm_cfg.bias"],
        "use_conv_bias": s["ssm_cfg.conv_bias"],
    })  # fmt: skip


def n_token(settings: Settings) -> int:
    """The vocabulary with the rows that fill it up, which are entries like the others in the source, too."""
    multiple = settings["pad_vocab_size_multiple"]
    return math.ceil(settings["vocab_size"] / multiple) * multiple


SOURCE = Source(
    model_type="mamba_ssm",
    defaults={
        "d_model": 2560, "n_layer": 64, "vocab_size": 50277, "pad_vocab_size_multiple": 8, "tie_embeddings": True,
        "ssm_cfg.d_state": 128, "ssm_cfg.d_conv": 4, "ssm_cfg.expand": 2.0, "ssm_cfg.headdim": 64,
        "ssm_cfg.ngroups": 1, "ssm_cfg.bias": False, "ssm_cfg.conv_bias": True,
    },
    fixed={
        "d_intermediate": 0, "attn_layer_idx": [], "rms_norm": True, "ssm_cfg.layer": "Mamba2", "ssm_cfg.d_ssm": None,
        "ssm_cfg.D_has_hdim": False, "ssm_cfg.rmsnorm": True, "ssm_cfg.norm_before_gate": False,
        "ssm_cfg.dt_limit": [0.0, math.inf],
    },
    ignored=frozenset({
        MIXER, "attn_cfg", "fused_add_norm", "residual_in_fp32",
        *(f"{MIXER}.{key}" for key in ("A_init_range", "chunk_size", "conv_init", "dt_init_floor", "dt_max", "dt_min",
                                       "sequence_parallel", "use_mem_eff_path")),
    }),
    config=config,
    n_token=n_token,
    layout=partial(mamba2.layout, embedding="backbone.embedding.weight"),
    flat=flat,
)  # fmt: skip

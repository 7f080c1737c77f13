"""What models of flash-linear-attention (fla) have in common: a mixer `attn`, then SwiGLU, with a norm before each."""

from __future__ import annotations

import math
from typing import Any

from tbptt.errors import UserError
from tbptt.interop.families.family import WHERE, Settings, ends, feed_forward, mixer
from tbptt.interop.layout import Layout, one_each
from tbptt.models.stack import StackConfig

NORMS = {"mixer_norm.weight": "attn_norm.weight", "feed_forward_norm.weight": "mlp_norm.weight"}
INNER_MULTIPLE = 256  # of the hidden units, where the settings only give their ratio to the model size
DEFAULTS: Settings = {
    "vocab_size": 32000, "hidden_size": 2048, "hidden_ratio": None, "intermediate_size": None, "norm_eps": 1e-6,
    "tie_word_embeddings": False,
}  # fmt: skip
FIXED: Settings = {"attn": None, "attnres_block_size": None, "hidden_act": "swish"}
IGNORED = frozenset({"attn_mode", "fuse_cross_entropy", "fuse_linear_cross_entropy", "fuse_norm", "fuse_swiglu"})


def shared_config(settings: Settings) -> dict[str, Any]:
    """The arguments of a StackConfig that do not depend on the mixer."""
    s, inner = settings, settings["intermediate_size"]
    if inner is None:
        inner = math.ceil(int(s["hidden_size"] * (s["hidden_ratio"] or 4) * 2 / 3) / INNER_MULTIPLE) * INNER_MULTIPLE
    return {
        "n_layer": s["num_hidden_layers"],
        "d_model": s["hidden_size"],
        "d_inner": inner,
        "norm_eps": s["norm_eps"],
        "tie_weight": s["tie_word_embeddings"],
    }


def shared_settings(config: StackConfig) -> dict[str, Any]:
    return {
        "num_hidden_layers": config.n_layer,
        "hidden_size": config.d_model,
        "intermediate_size": config.d_inner,
        "norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tie_weight,
        "fuse_norm": True,
    }


def expanded(settings: Settings, size: str, factor: str) -> int:
    """The product of two settings. UserError if it is no whole number."""
    product = settings[size] * settings[factor]
    if not math.isclose(product, round(product)):
        raise UserError(
            f"{WHERE} has {factor}={settings[factor]} times {size}={settings[size]}, which must be a whole number"
        )
    return round(product)


def layout(config: StackConfig, of_mixer: Layout) -> Layout:
    layout = ends(config, "model.embeddings.weight", "model.norm.weight")
    for i in range(config.n_layer):
        there = f"model.layers.{i}."
        layout |= mixer(of_mixer, i, f"{there}attn.") | feed_forward(i, f"{there}mlp.")
        layout |= one_each(NORMS, f"layers.{i}.", there)
    return layout

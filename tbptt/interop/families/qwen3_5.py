"""The language model of Qwen3.5 of transformers: Qwen3-Next's, with matrices that are fused otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from tbptt.interop.families import qwen3_next
from tbptt.interop.families.family import Family, Settings, convolution
from tbptt.interop.layout import Layout, Stored, one_each
from tbptt.models.mixers import GatedDeltaConfig
from tbptt.models.stack import StackConfig

LINEAR = qwen3_next.LINEAR | {
    "gate.weight": "in_proj_z.weight", "beta.weight": "in_proj_b.weight", "decay.weight": "in_proj_a.weight",
}  # fmt: skip
DENSE = {"num_experts": 0, "mlp_only_layers": None, "decoder_sparse_step": 1}  # it has no such settings
OF_WHOLE, OF_TEXT = "model.language_model.", "model."  # names in a model of images and text, and in the text model


def config(settings: Settings) -> StackConfig:
    return qwen3_next.config({**settings, **DENSE})


def settings(config: StackConfig) -> dict[str, Any]:
    return {key: value for key, value in qwen3_next.settings(config).items() if key not in DENSE}


def mixer_layout(config: GatedDeltaConfig) -> Layout:
    inputs = Stored(("query.weight", "key.weight", "value.weight"))
    return one_each(LINEAR) | {"in_proj_qkv.weight": inputs, "conv1d.weight": convolution(config.conv_width)}


def layout(config: StackConfig) -> Layout:
    return qwen3_next.layout(config, mixer_layout)


def loaded(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.replace(OF_WHOLE, OF_TEXT, 1): value for name, value in weights.items()}


FAMILY = Family(
    model_type="qwen3_5_text",
    architecture="Qwen3_5ForCausalLM",
    mixers=qwen3_next.FAMILY.mixers,
    defaults={
        **{key: value for key, value in qwen3_next.FAMILY.defaults.items() if key not in DENSE},
        "vocab_size": 248320, "hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 32,
        "num_key_value_heads": 4,
    },
    fixed={**qwen3_next.FAMILY.fixed, "attn_output_gate": True, "output_gate_type": "swish"},
    ignored=frozenset({
        "mamba_ssm_dtype", "mlp_only_layers", "mtp_num_hidden_layers", "mtp_use_dedicated_embeddings",
    }),
    config=config,
    settings=settings,
    layout=layout,
    loaded=loaded,
    left_out=("mtp.", "model.visual."),
    whole="qwen3_5",
)  # fmt: skip

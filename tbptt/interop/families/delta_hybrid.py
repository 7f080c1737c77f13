"""What OLMo-Hybrid and the Qwen models have in common: layers of Gated DeltaNet, and of attention to all tokens."""

from __future__ import annotations

from typing import Any

from tbptt.errors import UserError
from tbptt.interop.families.family import WHERE, Settings
from tbptt.models.stack import StackConfig

MIXERS = {"linear_attention": "gated_delta", "full_attention": "attention"}
NORMS = {"mixer_norm.weight": "input_layernorm.weight", "feed_forward_norm.weight": "post_attention_layernorm.weight"}


def layers(settings: Settings, period: int) -> list[str]:
    """The mixer of every layer: from layer_types, else every layer number `period` is attention."""
    count, types = settings["num_hidden_layers"], settings["layer_types"]
    if types is None:
        types = ["linear_attention" if (i + 1) % period else "full_attention" for i in range(count)]
    if unknown := [each for each in types if each not in MIXERS]:
        raise UserError(f"{WHERE} has layer_types={unknown[0]}, which must be {' or '.join(MIXERS)}")
    if len(types) != count:
        raise UserError(f"{WHERE} has {len(types)} layer_types, but num_hidden_layers={count}")
    return [MIXERS[each] for each in types]


def shared_settings(config: StackConfig) -> dict[str, Any]:
    """Those of config.json that have the same names in all of these models."""
    linear, attention = config.gated_delta, config.attention
    words = {name: word for word, name in MIXERS.items()}
    return {
        "num_hidden_layers": config.n_layer,
        "hidden_size": config.d_model,
        "intermediate_size": config.d_inner,
        "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tie_weight,
        "layer_types": [words[each.NAME] for each in config.mixers()],
        "linear_num_key_heads": linear.n_head,
        "linear_num_value_heads": linear.value_heads,
        "linear_key_head_dim": linear.d_key,
        "linear_value_head_dim": linear.d_value,
        "linear_conv_kernel_dim": linear.conv_width,
        "num_attention_heads": attention.n_head,
        "num_key_value_heads": attention.kv_heads,
    }

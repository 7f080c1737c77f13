"""Qwen3-Next of transformers, without its mixtures of experts: Gated DeltaNet, and gated attention to all tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tbptt.errors import UserError
from tbptt.interop.families import delta_hybrid
from tbptt.interop.families.family import WHERE, Family, Settings, convolution, ends, feed_forward, mixer, rotary
from tbptt.interop.layout import Layout, Stored, one_each
from tbptt.models.mixers import AttentionConfig, GatedDeltaConfig
from tbptt.models.mixers.attention import QueryKeyNorm
from tbptt.models.norms import Norm
from tbptt.models.stack import StackConfig

LINEAR = {
    "output.weight": "out_proj.weight", "A_log_G": "A_log", "dt_bias_G": "dt_bias", "norm_weight_V": "norm.weight",
}  # fmt: skip
ATTENTION = {
    "key.weight": "k_proj.weight", "value.weight": "v_proj.weight", "output.weight": "o_proj.weight",
    "query_norm_weight": "q_norm.weight", "key_norm_weight": "k_norm.weight",
}  # fmt: skip


def config(settings: Settings) -> StackConfig:
    s = settings
    experts = [
        i
        for i in range(s["num_hidden_layers"])
        if s["num_experts"] and (i + 1) % s["decoder_sparse_step"] == 0 and i not in (s["mlp_only_layers"] or [])
    ]
    if experts:
        raise UserError(
            f"{WHERE} has a mixture of num_experts={s['num_experts']} experts in layer {experts[0]}, which is not "
            "supported: only dense feed-forward layers are (mlp_only_layers)"
        )
    base, share = rotary(s)
    return StackConfig(
        n_layer=s["num_hidden_layers"],
        d_model=s["hidden_size"],
        layers=delta_hybrid.layers(s, s["full_attention_interval"]),
        d_inner=s["intermediate_size"],
        norm=Norm.rms_plus_one,
        norm_eps=s["rms_norm_eps"],
        tie_weight=s["tie_word_embeddings"],
        gated_delta=GatedDeltaConfig(
            n_head=s["linear_num_key_heads"],
            n_value_head=s["linear_num_value_heads"],
            d_key=s["linear_key_head_dim"],
            d_value=s["linear_value_head_dim"],
            conv_width=s["linear_conv_kernel_dim"],
            norm_eps=s["rms_norm_eps"],
        ),
        attention=AttentionConfig(
            n_head=s["num_attention_heads"],
            n_kv_head=s["num_key_value_heads"],
            d_head=s["head_dim"],
            window=None,
            rotary_share=share,
            rotary_base=base,
            qk_norm=QueryKeyNorm.head_plus_one,
            output_gate=True,
            norm_eps=s["rms_norm_eps"],
        ),
    )


def settings(config: StackConfig) -> dict[str, Any]:
    attention = config.attention
    return delta_hybrid.shared_settings(config) | {
        "mlp_only_layers": list(range(config.n_layer)),
        "head_dim": attention.d_head,
        "rope_parameters": {
            "rope_theta": attention.rotary_base,
            "partial_rotary_factor": attention.rotary_share,
            "rope_type": "default",
        },
    }


def mixer_layout(config: GatedDeltaConfig) -> Layout:
    """The rows of its two matrices are those of one key head after the other."""
    inputs = Stored(("query.weight", "key.weight", "value.weight", "gate.weight"), blocks=config.n_head)
    rates = Stored(("beta.weight", "decay.weight"), blocks=config.n_head)
    fused = {"in_proj_qkvz.weight": inputs, "in_proj_ba.weight": rates}
    return one_each(LINEAR) | fused | {"conv1d.weight": convolution(config.conv_width)}


def attention_layout(config: AttentionConfig) -> Layout:
    """The rows of q_proj are a head's query, then its gate."""
    return one_each(ATTENTION) | {"q_proj.weight": Stored(("query.weight", "gate.weight"), blocks=config.n_head)}


def layout(config: StackConfig, linear: Callable[[GatedDeltaConfig], Layout] = mixer_layout) -> Layout:
    layout = ends(config, "model.embed_tokens.weight", "model.norm.weight")
    for i, each in enumerate(config.mixers()):
        there = f"model.layers.{i}."
        if isinstance(each, GatedDeltaConfig):
            layout |= mixer(linear(each), i, f"{there}linear_attn.")
        else:
            assert isinstance(each, AttentionConfig)
            layout |= mixer(attention_layout(each), i, f"{there}self_attn.")
        layout |= one_each(delta_hybrid.NORMS, f"layers.{i}.", there) | feed_forward(i, f"{there}mlp.")
    return layout


FAMILY = Family(
    model_type="qwen3_next",
    architecture="Qwen3NextForCausalLM",
    mixers=frozenset(delta_hybrid.MIXERS.values()),
    defaults={
        "vocab_size": 151936, "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 48,
        "num_attention_heads": 16, "num_key_value_heads": 2, "rms_norm_eps": 1e-6, "tie_word_embeddings": False,
        "head_dim": 256, "layer_types": None, "full_attention_interval": 4, "linear_conv_kernel_dim": 4,
        "linear_key_head_dim": 128, "linear_value_head_dim": 128, "linear_num_key_heads": 16,
        "linear_num_value_heads": 32, "mlp_only_layers": None, "num_experts": 512, "decoder_sparse_step": 1,
        "rope_parameters": None, "rope_theta": 10_000.0, "rope_scaling": None, "partial_rotary_factor": 0.25,
    },
    fixed={"hidden_act": "silu", "attention_bias": False, "attention_dropout": 0.0},
    left_out=("mtp.",),
    ignored=frozenset({
        "moe_intermediate_size", "norm_topk_prob", "num_experts_per_tok", "output_router_logits",
        "router_aux_loss_coef", "shared_expert_intermediate_size",
    }),
    config=config,
    settings=settings,
    layout=layout,
)  # fmt: skip

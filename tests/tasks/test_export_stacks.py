"""Stacks go out as models of transformers, bit for bit what came in; those that none represents are refused."""

import json

import pytest
import torch
from safetensors.torch import load_file

from tbptt.errors import UserError
from tbptt.interop import hf, stacks
from tbptt.models.mixers import AttentionConfig, GatedDeltaConfig, GLAConfig, Mamba2Config, MLSTMConfig
from tbptt.models.mixers.attention import QueryKeyNorm
from tbptt.models.norms import Norm
from tbptt.models.stack import FeedForwardKind, StackConfig
from tests.interop.foreign_files import imported_from
from tests.interop.pretrained import NAMES, copied, folder_of, tiny_tokenizer, weights_of
from tests.tasks.test_export import assert_same, exported, run_of

# What config.json holds besides the settings that are read: start values, and what runs it.
DROPPED = {
    "mamba2": {"chunk_size", "rescale_prenorm_residual", "residual_in_fp32", "time_step_floor", "time_step_max",
               "time_step_min", "time_step_rank"},
    "xlstm": {"autocast_kernel_dtype", "chunk_size", "chunkwise_kernel", "embedding_dim", "inference_state_dtype",
              "max_inference_chunksize", "mode", "norm_reduction_force_float32", "num_blocks", "return_last_states",
              "sequence_kernel", "step_kernel"},
    "olmo_hybrid": {"linear_a_log_max", "linear_a_log_min", "linear_dt_init_floor", "linear_dt_max", "linear_dt_min"},
    "qwen3_next": {"decoder_sparse_step", "moe_intermediate_size", "norm_topk_prob", "num_experts",
                   "num_experts_per_tok", "output_router_logits", "router_aux_loss_coef",
                   "shared_expert_intermediate_size"},
    "recurrent_gemma": {"final_w_init_variance_scale", "head_dim", "w_init_variance_scale"},
}  # fmt: skip
DROPPED |= {"olmo_hybrid_rope": DROPPED["olmo_hybrid"], "qwen3_5": set()}
DROPPED_OF_ANY = {"initializer_range", "max_position_embeddings", "transformers_version", "use_cache"}


@pytest.mark.parametrize("name", NAMES)
def test_a_directory_comes_back(tmp_path, name):
    source = copied(name, tmp_path)
    tiny_tokenizer(40).save(str(source / "tokenizer.json"))
    checkpoint = run_of(imported_from("hf", source), tmp_path / "run")
    folder = exported(checkpoint, "hf", tmp_path / "out")
    assert_same(load_file(folder / "model.safetensors"), weights_of(source))
    ours, theirs = (json.loads((where / "config.json").read_text()) for where in (folder, source))
    assert theirs.keys() - ours.keys() - DROPPED_OF_ANY == DROPPED[name]
    if name == "mamba2":
        theirs["time_step_limit"] = [0.0, float("inf")]
    if name == "recurrent_gemma":
        theirs["block_types"] = ["recurrent", "recurrent", "attention", "recurrent"]  # it was repeated
    if name == "qwen3_5":
        del theirs["rope_parameters"]["mrope_section"]  # of images
    assert {key: ours[key] for key in theirs if key in ours} == {key: theirs[key] for key in theirs if key in ours}
    again = hf.build(folder)
    assert_same(dict(again.named_parameters()), load_file(checkpoint.folder / "model.safetensors"))
    assert (folder / "tokenizer.json").is_file()


def test_a_model_that_was_changed_goes_out_changed(tmp_path):
    made = hf.build(folder_of("qwen3_next"))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn_like(parameter))
    config = hf.read(folder_of("qwen3_next")).config
    hf.write(made, config, None, tmp_path)
    assert_same(dict(hf.build(tmp_path).named_parameters()), dict(made.named_parameters()))


OWN = {
    "mamba2": StackConfig(
        layers=["mamba2"], feed_forward=FeedForwardKind.none, dropout=0.1, tgt_len=7, mamba2=Mamba2Config(chunk_len=8)
    ),
    "xlstm": StackConfig(
        d_model=24,
        tie_weight=False,
        layers=["mlstm"],
        norm_eps=1e-6,
        logit_cap=30.0,
        mlstm=MLSTMConfig(d_key=16, d_value=32),
        d_inner=37,
    ),
    "gated_deltanet": StackConfig(layers=["gated_delta"], gated_delta=GatedDeltaConfig(d_key=24, d_value=56)),
    "gla": StackConfig(layers=["gla"]),
    "qwen3_next": StackConfig(
        layers=["gated_delta", "attention"],
        norm=Norm.rms_plus_one,
        norm_eps=1e-6,
        gated_delta=GatedDeltaConfig(norm_eps=1e-6),
        attention=AttentionConfig(window=None, qk_norm=QueryKeyNorm.head_plus_one, output_gate=True),
    ),
}


@pytest.mark.parametrize("name", OWN)
def test_a_stack_of_our_own_goes_out_where_a_model_type_represents_it(tmp_path, name):
    config = OWN[name]
    model = config.build(20)
    hf.write(model, config, None, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == name
    assert_same(dict(hf.build(tmp_path).named_parameters()), dict(model.named_parameters()))


@pytest.mark.parametrize(
    "settings, said",
    [
        ({"layers": ["slstm"]}, "none has the mixers ['slstm']"),
        ({"layers": ["mamba2"]}, "mamba2 has no model.feed_forward=swiglu"),
        ({"layers": ["gated_delta", "attention"]}, "model.attention.window=128"),
        ({"layers": ["gated_delta"], "softmax_bias": True}, "gated_deltanet has no model.softmax_bias=True"),
        ({"layers": ["gla"], "gla": GLAConfig(decay_rank=8)}, "gla has no model.gla.decay_rank=8"),
        ({"layers": ["mamba2", "mlstm"]}, "none has the mixers ['mamba2', 'mlstm']"),
        ({"layers": ["rg_lru", "attention"]}, "recurrent_gemma has no model.feed_forward=swiglu"),
        ({"layers": ["mamba2"], "feed_forward": FeedForwardKind.none, "softmax_bias": True}, "model.softmax_bias=True"),
        ({"layers": ["mamba2"], "feed_forward": FeedForwardKind.none, "cutoffs": [5]}, "model.cutoffs=[5]"),
        ({"layers": ["mlstm"], "logit_cap": 30.0}, "model.mlstm.norm_eps=1e-06"),
        ({"layers": ["mlstm"], "norm_eps": 1e-6, "logit_cap": 30.0}, "xlstm has no model.tie_weight=True"),
        ({"layers": ["mlstm"], "norm_eps": 1e-6, "tie_weight": False}, "xlstm has no model.logit_cap=None"),
    ],
)
def test_a_stack_that_no_model_type_represents_is_refused_by_what_is_missing(settings, said):
    with pytest.raises(UserError, match=r"export.format=hf writes mamba2, xlstm") as refused:
        stacks.family_of(StackConfig(**settings))
    assert said in str(refused.value) and "use export.format=safetensors" in str(refused.value)


def test_the_original_has_no_stacks(tmp_path):
    checkpoint = run_of(imported_from("hf", folder_of("mamba2")), tmp_path / "run")
    with pytest.raises(UserError, match="is of model stack, which does not exist in the original"):
        exported(checkpoint, "original", tmp_path / "out")

"""Directories of flash-linear-attention have the losses and gradients recorded of fla's own classes."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tbptt.errors import UserError
from tbptt.interop import hf
from tbptt.interop.families import source_of
from tbptt.interop.families.family import read_settings
from tbptt.interop.layout import to_layout
from tests.golden_fla import FLA, copied
from tests.interop.pretrained import projection, window_losses
from tests.interop.test_pretrained_refusals import change_config, refusal
from tests.models.mixers.recorded import assert_agrees
from tests.models.tiny import run_segments

NAMES = ("gated_deltanet", "gated_deltanet_negative", "gla", "gla_unfused", "mamba2")
EVERY_MODEL = pytest.mark.parametrize("name", NAMES)


def recorded(name: str) -> dict[str, torch.Tensor]:
    with np.load(FLA / f"{name}.expected.npz") as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays.files if key != "params"}


def losses(model, tokens_BL, lengths):
    with torch.no_grad():
        return run_segments(model, tokens_BL[:, :-1], tokens_BL[:, 1:], lengths)[0]


@EVERY_MODEL
def test_losses_are_those_recorded_in_one_pass_in_pieces_and_token_by_token(name):
    """In float64, of fla's classes with their kernels replaced by its naive forms."""
    model, wanted = hf.build(FLA / name).double(), recorded(name)
    for lengths in ([60], [1] * 60, [7, 1, 24, 28]):
        assert_agrees(losses(model, wanted["tokens"], lengths), wanted["nll64"], 1e-10, f"{lengths}")
    with torch.no_grad():
        found, _ = model.log_probs(wanted["tokens"][:, :-1], model.initial_state(2))
    assert_agrees(found[:, -1], wanted["logits64_last"].log_softmax(-1), 1e-10, "log probabilities")


@EVERY_MODEL
def test_in_float32_losses_are_those_of_the_unchanged_kernels(name):
    found, wanted = losses(hf.build(FLA / name), recorded(name)["tokens"], [60]), recorded(name)["nll32"]
    assert (found - wanted).abs().max() < 1e-4


@EVERY_MODEL
def test_gradients_are_those_recorded(name):
    wanted = recorded(name)
    with np.load(FLA / f"{name}.expected.npz") as arrays:
        names = arrays["params"].tolist()
    _, gradients = window_losses(hf.build(FLA / name).double(), wanted["tokens"], [60], 1)
    foreign = hf.read(FLA / name)
    theirs = to_layout(gradients, foreign.family.layout(foreign.config))
    whole = [each for each in names if "conv1d" not in each or name == "mamba2"]
    for key, norm, cosine in zip(names, wanted["grad_norm"], wanted["grad_cos"]):
        if key in whole:
            gradient = theirs.pop(key.replace(".g_norm.", ".g_norm_swish_gate."))
            assert_agrees(gradient.norm(), norm, 1e-8, f"norm of {key}")
            assert abs(projection(gradient) - cosine) <= 1e-8 * norm, key
    # What is left are the convolutions, which are three in fla.
    assert all("conv1d" in key for key in theirs)
    squares = sum(norm**2 for key, norm in zip(names, wanted["grad_norm"]) if key not in whole)
    if theirs:
        assert_agrees(sum(each.square().sum() for each in theirs.values()), squares, 1e-8, "convolutions")


@EVERY_MODEL
def test_there_are_as_many_parameters_as_in_the_source(name):
    weights = load_file(FLA / name / "model.safetensors")
    count = sum(parameter.numel() for parameter in hf.build(FLA / name).parameters())
    assert count == sum(value.numel() for value in weights.values())


@pytest.mark.parametrize("name, given", [("gated_deltanet", {}), ("gla", {}), ("mamba2", {"norm_eps": 1e-5})])
def test_default_settings_are_those_of_fla(name, given):
    """The sizes of the published models are among them: 1.3 billion parameters."""
    source = source_of({"model_type": name, **given})
    settings = read_settings(source, {"model_type": name, **given})
    with torch.device("meta"):
        model = source.config(settings).build(source.n_token(settings))
    published = json.loads((FLA / "manifest.json").read_text())["parameters_with_default_settings"]
    assert sum(parameter.numel() for parameter in model.parameters()) == published[name]


@pytest.mark.parametrize(
    "name, changes, said",
    [
        ("gated_deltanet", {"attn": {"layers": [1], "num_heads": 2}}, "attn={'layers': [1], 'num_heads': 2}"),
        ("gated_deltanet", {"use_gate": False}, "use_gate=False, which must be True"),
        ("gated_deltanet", {"use_short_conv": False}, "use_short_conv=False"),
        ("gated_deltanet", {"output_gate_activation": "sigmoid"}, "output_gate_activation=sigmoid"),
        ("gated_deltanet", {"hidden_act": "powlu"}, "hidden_act=powlu"),
        ("gated_deltanet", {"attnres_block_size": 2}, "attnres_block_size=2"),
        ("gated_deltanet", {"num_v_heads": 3}, "n_head=2"),
        ("gated_deltanet", {"expand_v": 1.3}, "expand_v=1.3 times head_dim=8"),
        ("gated_deltanet", {"use_mamba_gate": True}, "use_mamba_gate=True, a setting that is not known"),
        ("gated_deltanet", {"num_experts": 4}, "num_experts=4, a setting that is not known of gated_deltanet models"),
        ("gated_deltanet", {"intermediate_size": None}, "'model.layers.0.mlp.gate_proj.weight' has the shape (24, 16)"),
        ("gla", {"num_kv_heads": 1}, "num_kv_heads=1, which must be num_heads=2"),
        ("gla", {"feature_map": "relu"}, "feature_map=relu"),
        ("gla", {"clamp_min": -3.0}, "clamp_min=-3.0"),
        ("gla", {"use_output_gate": False}, "use_output_gate=False"),
        ("gla", {"use_short_conv": True}, "use_short_conv=True"),
        ("gla", {"elementwise_affine": False}, "elementwise_affine=False"),
        ("gla", {"gate_low_rank_dim": 8}, "gate_low_rank_dim=8, a setting that is not known of gla models"),
        ("gla", {"expand_k": 0.06}, "expand_k=0.06 times hidden_size=16, which must be a whole number"),
        ("gla", {"expand_k": 0.0625}, "must be a multiple of num_heads=2"),
        ("mamba2", {"rmsnorm": False}, "rmsnorm=False"),
        ("mamba2", {"norm_before_gate": True}, "norm_before_gate=True, which must be False"),
        ("mamba2", {"D_has_hdim": True}, "D_has_hdim=True"),
        ("mamba2", {"dt_limit": [0.0, 1.0]}, "dt_limit=[0.0, 1.0]"),
        ("mamba2", {"num_heads": 5}, "num_heads=5"),
        ("gla", {"model_type": "gsa"}, "model_type=gsa, which must be one of transfo-xl, mamba2"),
    ],
)
def test_settings_that_are_not_supported_are_named(tmp_path, name, changes, said):
    folder = copied(name, tmp_path)
    change_config(folder, **changes)
    assert said in refusal(folder)


def test_the_older_names_of_mamba2s_settings_are_read(tmp_path):
    folder = copied("mamba2", tmp_path)
    change_config(folder, "dt_limit", "rmsnorm", rms_norm=True, time_step_limit=[0.0, float("inf")])
    assert hf.read(folder).config == hf.read(FLA / "mamba2").config


@pytest.mark.parametrize("name", ["gated_deltanet", "gated_deltanet_negative", "gla", "gla_unfused"])
def test_a_directory_comes_back(tmp_path, name):
    foreign, source = hf.read(FLA / name), load_file(FLA / name / "model.safetensors")
    hf.write(hf.build(FLA / name), foreign.config, None, tmp_path, foreign.family.model_type)
    ours, theirs = load_file(tmp_path / "model.safetensors"), foreign.family.loaded(source)
    assert foreign.family.loaded(ours).keys() == theirs.keys()
    assert all(value.equal(theirs[key]) for key, value in foreign.family.loaded(ours).items())
    if name != "gla_unfused":  # its norm has the name that it has with fuse_norm
        assert ours.keys() == source.keys() and all(value.equal(source[key]) for key, value in ours.items())
    settings, of_source = (json.loads((folder / "config.json").read_text()) for folder in (tmp_path, FLA / name))
    own = {"conv_size", "allow_neg_eigval", "head_dim"} if name.startswith("gated") else {"expand_k"}
    for key in own | {"model_type", "num_heads", "expand_v", "hidden_size", "intermediate_size", "tie_word_embeddings"}:
        assert settings[key] == of_source[key], key


def test_mamba2_goes_out_as_that_of_transformers(tmp_path):
    foreign = hf.read(FLA / "mamba2")
    hf.write(hf.build(FLA / "mamba2"), foreign.config, None, tmp_path, foreign.family.model_type)
    assert json.loads((tmp_path / "config.json").read_text())["layer_norm_epsilon"] == 1e-5
    for key, value in hf.build(FLA / "mamba2").named_parameters():
        assert value.equal(dict(hf.build(tmp_path).named_parameters())[key])


def test_a_convolution_that_is_missing_is_named(tmp_path):
    folder = copied("gated_deltanet", tmp_path)
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.attn.k_conv1d.weight"]
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(UserError, match=r"lack 'model\.layers\.1\.attn\.k_conv1d\.weight'"):
        hf.build(folder)

"""Mamba-2 as its authors store it has the losses of the same model as transformers stores it, which are recorded."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tbptt.errors import UserError
from tbptt.interop import hf
from tbptt.interop.families.family import read_settings
from tbptt.interop.families.state_spaces import SOURCE
from tbptt.interop.importing import read
from tests.interop.foreign_files import imported_from
from tests.interop.pretrained import expected, folder_of, weights_of
from tests.interop.test_pretrained_refusals import change_config, refusal
from tests.models.mixers.recorded import assert_agrees
from tests.models.tiny import run_segments

THEIRS = json.loads((folder_of("mamba2") / "config.json").read_text())
# The config.json of state-spaces/mamba2-130m.
PUBLISHED = {
    "d_model": 768, "d_intermediate": 0, "n_layer": 24, "vocab_size": 50277, "ssm_cfg": {"layer": "Mamba2"},
    "attn_layer_idx": [], "attn_cfg": {}, "rms_norm": True, "residual_in_fp32": True, "fused_add_norm": True,
    "pad_vocab_size_multiple": 16, "tie_embeddings": True,
}  # fmt: skip
MIXER = {
    "layer": "Mamba2", "d_state": THEIRS["state_size"], "headdim": THEIRS["head_dim"], "ngroups": THEIRS["n_groups"],
    "expand": THEIRS["expand"], "d_conv": THEIRS["conv_kernel"], "chunk_size": 16,
}  # fmt: skip
CONFIG = PUBLISHED | {
    "d_model": THEIRS["hidden_size"], "n_layer": THEIRS["num_hidden_layers"], "vocab_size": 45, "ssm_cfg": MIXER,
    "pad_vocab_size_multiple": 10,
}  # fmt: skip


@pytest.fixture
def folder(tmp_path) -> Path:
    """The recorded model, of 50 entries, as 45 padded to a multiple of 10: with both names of the tied table."""
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    weights = weights_of(folder_of("mamba2"))
    table = weights.pop("backbone.embeddings.weight")
    weights |= {"backbone.embedding.weight": table, "lm_head.weight": table}
    torch.save(weights, tmp_path / "pytorch_model.bin")
    return tmp_path


def assert_losses_are_recorded(model) -> None:
    recorded = expected("mamba2")
    with torch.no_grad():
        found, _ = run_segments(model.double(), recorded["tokens"][:, :-1], recorded["tokens"][:, 1:], [30, 30])
    assert_agrees(found, recorded["nll64"], 1e-10, "losses")


def test_it_is_the_model_that_transformers_stores(folder):
    """Rows that fill the vocabulary up are entries like the others: the recorded losses are those of all 50."""
    imported = read(imported_from("hf", folder))
    assert imported.model.embedding.bounds[-1][1] == 50
    assert any("its vocabulary of 45 is filled up to 50 entries" in note for note in imported.notes)
    assert_losses_are_recorded(imported.model)
    assert sum(parameter.numel() for parameter in imported.model.parameters()) == 16_216


def test_it_is_read_from_safetensors_and_with_a_table_of_its_own(folder):
    weights = torch.load(folder / "pytorch_model.bin")
    (folder / "pytorch_model.bin").unlink()
    save_file({key: value.clone() for key, value in weights.items()}, folder / "model.safetensors")
    change_config(folder, tie_embeddings=False)
    model = hf.build(folder)
    assert_losses_are_recorded(model)
    assert sum(parameter.numel() for parameter in model.parameters()) == 16_216 + 50 * THEIRS["hidden_size"]


def test_it_goes_out_as_a_directory_of_transformers(folder, tmp_path_factory):
    out, foreign = tmp_path_factory.mktemp("out"), hf.read(folder)
    hf.write(hf.build(folder), foreign.config, None, out, foreign.family.model_type)
    written, source = load_file(out / "model.safetensors"), weights_of(folder_of("mamba2"))
    assert written.keys() == source.keys() and all(value.equal(source[key]) for key, value in written.items())


@pytest.mark.parametrize(
    "d_model, n_layer, parameters",
    [(768, 24, 128_989_632), (2560, 64, 2_702_599_680)],
)
def test_published_settings_give_models_of_the_published_size(d_model, n_layer, parameters):
    settings = read_settings(SOURCE, PUBLISHED | {"d_model": d_model, "n_layer": n_layer})
    with torch.device("meta"):
        model = SOURCE.config(settings).build(SOURCE.n_token(settings))
    assert SOURCE.n_token(settings) == 50288
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"ssm_cfg": {}}, "ssm_cfg.layer=Mamba1, which must be Mamba2"),
        ({"ssm_cfg": MIXER | {"layer": "Mamba1"}}, "ssm_cfg.layer=Mamba1"),
        ({"ssm_cfg": MIXER | {"layer": "Mamba3"}}, "ssm_cfg.layer=Mamba3"),
        ({"ssm_cfg": None}, "ssm_cfg=None, which must be settings"),
        ({"ssm_cfg": MIXER | {"D_has_hdim": True}}, "ssm_cfg.D_has_hdim=True"),
        ({"ssm_cfg": MIXER | {"d_ssm": 32}}, "ssm_cfg.d_ssm=32"),
        ({"ssm_cfg": MIXER | {"rmsnorm": False}}, "ssm_cfg.rmsnorm=False"),
        ({"ssm_cfg": MIXER | {"norm_before_gate": True}}, "ssm_cfg.norm_before_gate=True"),
        ({"ssm_cfg": MIXER | {"dt_limit": [0.0, 0.1]}}, "ssm_cfg.dt_limit=[0.0, 0.1]"),
        ({"ssm_cfg": MIXER | {"headdim": 5}}, "d_head=5"),
        ({"ssm_cfg": MIXER | {"headdim": 0}}, "describe no mamba_ssm model"),
        ({"ssm_cfg": MIXER | {"d_state": "many"}}, "ssm_cfg.d_state='many'"),
        ({"ssm_cfg": MIXER | {"d_stat": 16}}, "ssm_cfg.d_stat=16, a setting that is not known of mamba_ssm models"),
        ({"ssm_cfg": MIXER | {"bias": True}}, "lack 'backbone.layers.0.mixer.in_proj.bias'"),
        ({"attn_layer_idx": [1], "attn_cfg": {"num_heads": 2}}, "attn_layer_idx=[1], which must be []"),
        ({"d_intermediate": 64}, "d_intermediate=64, which must be 0"),
        ({"rms_norm": False}, "rms_norm=False"),
        ({"num_experts": 8}, "num_experts=8, a setting that is not known of mamba_ssm models"),
        ({"pad_vocab_size_multiple": 16}, "'backbone.embedding.weight' has the shape (50, 32)"),
        ({"pad_vocab_size_multiple": 0}, "describe no mamba_ssm model"),
    ],
)
def test_what_is_not_supported_is_named(folder, changes, said):
    change_config(folder, **changes)
    assert said in refusal(folder)


def test_nothing_in_a_file_of_torch_is_run(folder, tmp_path_factory):
    """A pickle that would create a file: it is refused, and there is none."""

    class Trap:
        def __reduce__(self):
            return open, (str(folder / "trap"), "w")

    torch.save({"backbone.norm_f.weight": Trap()}, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="has no state dict"):
        hf.build(folder)
    assert not (folder / "trap").exists()

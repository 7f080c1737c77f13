"""Directories of pretrained models as they are published: in shards, in bfloat16, with a tokenizer."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tbptt.data import subwords
from tbptt.data.config import Level
from tbptt.data.language import load_language
from tbptt.errors import UserError
from tbptt.interop import hf
from tbptt.interop.families import FAMILIES
from tbptt.interop.families.family import read_settings
from tbptt.interop.importing import read
from tbptt.models.stack import StackConfig
from tbptt.tasks.import_model import write
from tbptt.training.checkpoints import find_checkpoint
from tests.interop.foreign_files import imported_from
from tests.interop.pretrained import NAMES, copied, expected, folder_of, model_of, tiny_tokenizer, weights_of
from tests.models.mixers.recorded import assert_agrees
from tests.models.tiny import run_segments

ENTRIES = 40  # of the tokenizer; the models have 50


def assert_losses_are_recorded(model, name):
    recorded = expected(name)
    with torch.no_grad():
        found, _ = run_segments(model.double(), recorded["tokens"][:, :-1], recorded["tokens"][:, 1:], [30, 30])
    assert_agrees(found, recorded["nll64"], 1e-10, name)


def in_shards(folder: Path, weights: dict[str, torch.Tensor], name: str = "model.safetensors") -> None:
    (folder / "model.safetensors").unlink()
    stem, suffix = name.split(".")
    files = [f"{stem}-0000{i}-of-00002.{suffix}" for i in (1, 2)]
    places = {name: files[i % 2] for i, name in enumerate(weights)}
    for file in files:
        save = save_file if suffix == "safetensors" else torch.save
        save({name: value for name, value in weights.items() if places[name] == file}, folder / file)
    index = {"metadata": {"total_size": 1}, "weight_map": places}
    (folder / f"{name}.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize("name", ["olmo_hybrid", "qwen3_5"])
def test_shards_in_bfloat16_are_read_as_they_are(tmp_path, name):
    folder, weights = copied(name, tmp_path), weights_of(folder_of(name))
    in_shards(folder, {key: value.bfloat16() for key, value in weights.items()})
    imported = read(imported_from("hf", folder))
    assert any("stored in bfloat16" in note for note in imported.notes)
    rounded = dict(imported.model.named_parameters())
    for key, value in model_of(name, torch.float32).named_parameters():
        assert rounded[key].dtype is torch.float32 and torch.equal(rounded[key], value.bfloat16().float())


@pytest.mark.parametrize("file", ["pytorch_model.bin", "mamba.pt", "consolidated.pth", "other.safetensors"])
def test_a_file_of_torch_save_or_the_only_file_of_weights_is_read(tmp_path, file):
    folder = copied("mamba2", tmp_path)
    save = save_file if file.endswith(".safetensors") else torch.save
    save(weights_of(folder), folder / file)
    (folder / "model.safetensors").unlink()
    assert_losses_are_recorded(hf.build(str(folder)), "mamba2")


def test_shards_of_torch_save_are_read(tmp_path):
    folder = copied("mamba2", tmp_path)
    in_shards(folder, weights_of(folder), "pytorch_model.bin")
    assert_losses_are_recorded(hf.build(folder), "mamba2")


def test_of_several_files_with_other_names_none_is_taken(tmp_path):
    folder = copied("mamba2", tmp_path)
    torch.save(weights_of(folder), folder / "first.pt")
    (folder / "model.safetensors").rename(folder / "second.safetensors")
    with pytest.raises(UserError, match=r"and which of first\.pt, second\.safetensors is meant is not known"):
        hf.build(folder)


@pytest.mark.parametrize("parts", [("q", "k", "v"), ("v", "q", "k")])
def test_olmos_convolution_may_be_cut_by_its_widths_and_stored_in_any_order(tmp_path, parts):
    folder = copied("olmo_hybrid", tmp_path)
    weights = weights_of(folder)
    for layer in range(3):
        prefix = f"model.layers.{layer}.linear_attn."
        thirds = [weights.pop(f"{prefix}{part}_conv1d.weight") for part in "qkv"]
        cut = dict(zip("qkv", torch.cat(thirds).split([16, 16, 32])))
        weights |= {f"{prefix}{part}_conv1d.weight": cut[part].clone() for part in parts}
    save_file(weights, folder / "model.safetensors")
    assert_losses_are_recorded(hf.build(folder), "olmo_hybrid")


def test_the_settings_of_older_versions_are_read(tmp_path):
    """Rotary positions without rope_parameters; layers without layer_types."""
    folder = copied("qwen3_next", tmp_path)
    config = json.loads((folder / "config.json").read_text())
    del config["rope_parameters"], config["layer_types"]
    older = {"rope_theta": 65536.0, "partial_rotary_factor": 0.25, "rope_scaling": None, "use_sliding_window": False}
    (folder / "config.json").write_text(json.dumps(config | older))
    assert_losses_are_recorded(hf.build(folder), "qwen3_next")


def test_of_a_model_of_images_and_text_the_language_model_is_read(tmp_path):
    folder = copied("qwen3_5", tmp_path)
    text = json.loads((folder / "config.json").read_text())
    whole = {"model_type": "qwen3_5", "text_config": text, "vision_config": {"depth": 1}, "tie_word_embeddings": False}
    (folder / "config.json").write_text(json.dumps(whole))
    weights = {name.replace("model.", "model.language_model.", 1): x for name, x in weights_of(folder).items()}
    others = {"model.visual.blocks.0.norm1.weight": torch.zeros(3), "mtp.norm.weight": torch.zeros(3)}
    save_file(weights | others, folder / "model.safetensors")
    imported = read(imported_from("hf", folder))
    assert_losses_are_recorded(imported.model, "qwen3_5")
    assert sum("are not of the language model" in note for note in imported.notes) == 2


@pytest.mark.parametrize("name", NAMES)
def test_a_run_directory_holds_the_model_and_reads_text_with_its_tokenizer(tmp_path, name):
    folder, run_dir = copied(name, tmp_path), tmp_path / "run"
    tiny_tokenizer(ENTRIES).save(str(folder / "tokenizer.json"))
    config = imported_from("hf", folder)
    imported = read(config)
    run_dir.mkdir()
    write(imported, config, run_dir)
    checkpoint = find_checkpoint(str(run_dir))
    data = checkpoint.info["identity"]["data"]
    assert (data["level"], data["vocab_size"]) == ("bpe", 50)
    model = imported.config.build(50)
    assert isinstance(imported.config, StackConfig) and checkpoint.info["config"]["model"]["name"] == "stack"
    checkpoint.load_weights(model)
    assert_losses_are_recorded(model, name)
    language = load_language(run_dir, data["vocabulary_sha256"], lower=False)
    assert language.read("abc\nz", "here").tolist() == [0, 1, 2, 27, 25]
    start, unused = "<doc>", [f"<unused {i}>" for i in range(ENTRIES + 1, 50)]
    assert language.vocabulary.symbols[ENTRIES:] == [start, *unused]
    # A corpus that is prepared with the run's tokenizer has the run's vocabulary, also one of documents.
    tokenizer = subwords.read_tokenizer(run_dir / "tokenizer.json", "it")
    assert subwords.with_start(tokenizer) == start
    assert subwords.tokenizer_vocabulary(tokenizer).sha256 == data["vocabulary_sha256"]


def test_a_tokenizer_may_lie_elsewhere_and_must_be_the_models(tmp_path):
    for entries in (ENTRIES, 51):
        (tmp_path / str(entries)).mkdir()
        tiny_tokenizer(entries).save(str(tmp_path / str(entries) / "tokenizer.json"))
    given = imported_from("hf", folder_of("mamba2"), vocabulary=str(tmp_path / f"{ENTRIES}/tokenizer.json"))
    assert read(given).vocabulary.level is Level.bpe
    given.vocabulary = str(tmp_path / str(ENTRIES))
    with pytest.raises(UserError, match=r"is a folder: give .*tokenizer\.json"):
        read(given)
    given.vocabulary = str(tmp_path / "51/tokenizer.json")
    with pytest.raises(UserError, match="has 51 entries but the model 50"):
        read(given)
    (tmp_path / "51/tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match=r"is not a valid tokenizer\.json"):
        read(given)


def test_without_a_tokenizer_a_model_has_no_vocabulary():
    assert read(imported_from("hf", folder_of("xlstm"))).vocabulary is None


def test_a_tokenizer_with_a_gap_in_its_ids_is_refused(tmp_path):
    tokenizer = json.loads(tiny_tokenizer(ENTRIES).to_str())
    tokenizer["model"]["vocab"]["z"] = 45
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(tokenizer))
    with pytest.raises(UserError, match="no entry for the id 25"):
        read(imported_from("hf", folder_of("mamba2"), vocabulary=str(path)))


# The config.json of Mamba-Codestral-7B.
CODESTRAL = {
    "_name_or_path": "codestral-hf", "architectures": ["Mamba2ForCausalLM"], "bos_token_id": 0, "chunk_size": 256,
    "conv_kernel": 4, "eos_token_id": 0, "expand": 2, "head_dim": 64, "hidden_act": "silu", "hidden_size": 4096,
    "initializer_range": 0.1, "intermediate_size": 8192, "layer_norm_epsilon": 1e-05, "model_type": "mamba2",
    "n_groups": 8, "norm_before_gate": True, "num_heads": 128, "num_hidden_layers": 64, "pad_token_id": 0,
    "rescale_prenorm_residual": False, "residual_in_fp32": True, "rms_norm": True, "state_size": 128,
    "tie_word_embeddings": False, "time_step_floor": 0.0001, "time_step_init_scheme": "random",
    "time_step_limit": [0.0, math.inf], "time_step_max": 0.1, "time_step_min": 0.001, "time_step_rank": 256,
    "time_step_scale": 1.0, "torch_dtype": "bfloat16", "transformers_version": "4.44.0.dev0", "use_bias": False,
    "use_cache": True, "use_conv_bias": True, "vocab_size": 32768,
}  # fmt: skip


@pytest.mark.parametrize(
    "model_type, given, parameters",
    [
        ("mamba2", CODESTRAL, 7_285_403_648),
        ("mamba2", {}, 7_285_403_648),
        ("xlstm", {}, 6_865_424_896),
        ("recurrent_gemma", {"num_key_value_heads": 1, "intermediate_size": 15_360, "head_dim": 256}, 2_682_862_080),
    ],
)
def test_settings_as_published_give_models_of_the_published_size(model_type, given, parameters):
    """What config.json omits has transformers' values, which are those of the published models."""
    family = FAMILIES[model_type]
    settings = read_settings(family, given)
    config = family.config(settings)
    with torch.device("meta"):
        model = config.build(settings["vocab_size"])
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters

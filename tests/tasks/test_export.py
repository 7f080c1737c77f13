"""What comes in goes out as it came, bit for bit; what a format has no place for is refused."""

import json
import os
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tbptt.errors import UserError
from tbptt.interop.config import ExportConfig, ExportFormat, ImportConfig
from tbptt.interop.importing import read
from tbptt.tasks import export_model
from tbptt.tasks.import_model import write
from tbptt.training.checkpoints import Checkpoint, Checkpoints, find_checkpoint
from tests.interop.foreign_files import (
    GOLDEN_HF,
    HF_NAME,
    MODELS,
    imported_from,
    original_file,
    original_weights,
    words,
)
from tests.models.recorded import MANIFEST
from tests.refusing_disks import largest_file
from tests.training.saved_runs import model_at


def run_of(config: ImportConfig, run_dir: Path) -> Checkpoint:
    run_dir.mkdir()
    write(read(config), config, run_dir)
    return find_checkpoint(str(run_dir))


def exported(checkpoint: Checkpoint, format: str, folder: Path) -> Path:
    config = ExportConfig(ExportFormat[format], str(folder))
    config.check()
    export_model.check_format(checkpoint, config)
    return export_model.write(checkpoint, config)


def check_format(folder: Path, format: ExportFormat) -> None:
    export_model.check_format(Checkpoint.open(folder), ExportConfig(format, "out"))


def assert_same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) and ours[name].dtype == theirs[name].dtype for name in theirs)


@pytest.mark.parametrize("model_name", MODELS)
def test_the_originals_state_dict_comes_back(tmp_path, model_name):
    checkpoint = run_of(original_file(tmp_path / "weights.npz", model_name), tmp_path / "run")
    folder = exported(checkpoint, "original", tmp_path / "out")
    assert_same(torch.load(folder / "state_dict.pt", weights_only=True), original_weights(model_name))
    arguments, given = json.loads((folder / "args.json").read_text()), MANIFEST["models"][model_name]["config"]
    assert {key: arguments[key] for key in given} == given
    again = imported_from("original", folder / "state_dict.pt", config=str(folder / "args.json"))
    assert_same(dict(read(again).model.named_parameters()), load_file(checkpoint.folder / "model.safetensors"))


def original_constructor(
    n_token, n_layer, n_head, d_model, d_head, d_inner, dropout, dropatt, tie_weight=True, d_embed=None, div_val=1,
    tie_projs=(False,), pre_lnorm=False, tgt_len=None, ext_len=None, mem_len=None, cutoffs=(), adapt_inp=False,
    same_length=False, attn_type=0, clamp_len=-1, sample_softmax=-1,
):  # fmt: skip
    """The signature of the original's MemTransformerLM, and the first sum that it makes: max_klen."""
    return tgt_len + ext_len + mem_len


@pytest.mark.parametrize("model_name", MODELS)
def test_the_originals_code_can_load_what_it_gets(tmp_path, model_name):
    """Its constructor takes the arguments; torch before 1.6 reads the state dict, a series of pickles."""
    checkpoint = run_of(original_file(tmp_path / "weights.npz", model_name), tmp_path / "run")
    folder = exported(checkpoint, "original", tmp_path / "out")
    config = read(imported_from("original", tmp_path / "weights.npz", config=str(tmp_path / "args.json"))).config
    arguments = json.loads((folder / "args.json").read_text())
    assert original_constructor(**arguments) == config.tgt_len + config.mem_len
    assert not zipfile.is_zipfile(folder / "state_dict.pt")


def test_biases_of_each_layer_are_refused_by_the_original_before_anything_is_written(tmp_path):
    """HF has them (fairseq's models do, too); they have no place in the original."""
    checkpoint = run_of(imported_from("hf", GOLDEN_HF / HF_NAME), tmp_path / "run")
    with pytest.raises(UserError, match=r"cannot represent model\.untie_r=true: .*export\.format=hf"):
        check_format(checkpoint.folder, ExportFormat.original)
    check_format(checkpoint.folder, ExportFormat.hf)


@pytest.mark.parametrize("model_name", MODELS)
def test_a_model_of_the_original_goes_through_huggingfaces_form(tmp_path, model_name):
    checkpoint = run_of(original_file(tmp_path / "weights.npz", model_name), tmp_path / "run")
    folder = exported(checkpoint, "hf", tmp_path / "out")
    again = read(imported_from("hf", folder))
    assert_same(dict(again.model.named_parameters()), load_file(checkpoint.folder / "model.safetensors"))
    assert not any(name.endswith("out_layers.0.weight") for name in load_file(folder / "model.safetensors"))


def test_huggingfaces_directory_comes_back(tmp_path):
    (tmp_path / "vocab.txt").write_text("".join(f"{word}\n" for word in words(200)))
    config = imported_from("hf", GOLDEN_HF / HF_NAME, vocabulary=str(tmp_path / "vocab.txt"))
    folder = exported(run_of(config, tmp_path / "run"), "hf", tmp_path / "out")
    assert_same(load_file(folder / "model.safetensors"), load_file(GOLDEN_HF / HF_NAME / "model.safetensors"))
    ours, theirs = (json.loads((where / "config.json").read_text()) for where in (folder, GOLDEN_HF / HF_NAME))
    differing = {key for key in theirs if ours.get(key) != theirs[key]}
    assert differing == {"init", "init_range", "init_std", "proj_init_std", "transformers_version"}
    assert (folder / "vocab.txt").read_bytes() == (tmp_path / "vocab.txt").read_bytes()
    assert read(imported_from("hf", folder)).vocabulary.symbols == words(200)


def test_safetensors_are_the_checkpoints_own(tmp_path):
    checkpoint = run_of(original_file(tmp_path / "weights.npz", "a_plain"), tmp_path / "run")
    folder = exported(checkpoint, "safetensors", tmp_path / "out")
    assert (folder / "model.safetensors").read_bytes() == (checkpoint.folder / "model.safetensors").read_bytes()
    settings = json.loads((folder / "config.json").read_text())
    assert settings["vocab_size"] == 97 and settings["n_layer"] == 3 and settings["name"] == "transformer_xl"


def test_a_model_that_they_do_not_have_is_refused(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=1)
    info = {"identity": {}, "config": {"model": {"name": "lstm"}}}
    checkpoints.save(1, model_at(1), {}, info, best=True)
    folder = checkpoints.best().folder
    for format in ("hf", "original"):
        with pytest.raises(UserError, match=r"is of model lstm.*export\.format=safetensors"):
            export_model.check_format(
                Checkpoint.open(folder), ExportConfig(ExportFormat[format], str(tmp_path / "out"))
            )
    check_format(folder, ExportFormat.safetensors)
    (folder / "checkpoint.json").write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        export_model.check_format(
            Checkpoint.open(folder), ExportConfig(ExportFormat.safetensors, str(tmp_path / "out"))
        )


def test_ties_that_huggingface_has_no_place_for_are_refused_and_nothing_is_written(tmp_path):
    name = "c_adaptive_div2_proj"
    config = original_file(tmp_path / "weights.npz", name)
    weights = original_weights(name) | {"crit.out_projs.0": original_weights(name)["word_emb.emb_projs.0"]}
    torch.save(weights, tmp_path / "weights.pt")
    arguments = MANIFEST["models"][name]["config"]
    (tmp_path / "args.json").write_text(json.dumps(arguments | {"tie_projs": [True, *arguments["tie_projs"][1:]]}))
    config.path = str(tmp_path / "weights.pt")
    checkpoint = run_of(config, tmp_path / "run")
    with pytest.raises(UserError, match=r"cannot represent model\.tie_projs"):
        check_format(checkpoint.folder, ExportFormat.hf)
    assert not list(tmp_path.glob("out*"))


def test_an_existing_directory_is_not_written_to(tmp_path):
    with pytest.raises(UserError, match="exists already"):
        ExportConfig(ExportFormat.hf, str(tmp_path)).check()


@pytest.mark.parametrize("format", ExportFormat)
def test_an_export_that_has_no_space_says_so_and_leaves_nothing(tmp_path, format):
    checkpoint = run_of(original_file(tmp_path / "weights.npz", "a_plain"), tmp_path / "run")
    whole = exported(checkpoint, format.name, tmp_path / "whole")
    before = set(tmp_path.iterdir())
    for size in sorted({limit for path in whole.iterdir() for limit in (0, path.stat().st_size - 1)}):
        with largest_file(size), pytest.raises(UserError, match=r"the disk of .* is full .*export\.path"):
            exported(checkpoint, format.name, tmp_path / "out")
        assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize("mask", [0o022, 0o002, 0o077])
def test_all_files_have_the_mode_that_the_umask_gives(tmp_path, mask):
    before = os.umask(mask)
    try:
        checkpoint = run_of(original_file(tmp_path / "weights.npz", "a_plain"), tmp_path / "run")
        for format in ExportFormat:
            exported(checkpoint, format.name, tmp_path / format.name)
    finally:
        os.umask(before)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.stat().st_mode & 0o777 for path in files} == {0o666 & ~mask} and len(files) > 9

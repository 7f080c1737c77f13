"""A wrong, damaged or dangerous file is refused in one sentence before anything is written; nothing of it is run."""

import json
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tbptt.errors import UserError
from tbptt.interop.config import ImportConfig
from tbptt.interop.importing import read
from tbptt.interop.pickles import Placeholder, load_pickle
from tbptt.tasks.import_model import write
from tbptt.training.checkpoints import find_checkpoint
from tests.interop.foreign_files import (
    GOLDEN_HF,
    HF_NAME,
    fairseq_file,
    imported_from,
    nvidia_file,
    original_file,
    original_weights,
    words,
)
from tests.models.recorded import MANIFEST

NAME = "c_adaptive_div2_proj"


def refusal(config: ImportConfig) -> str:
    with pytest.raises(UserError) as refused:
        config.check()
        read(config)
    said = str(refused.value)
    assert "\n" not in said and len(said) < 600
    return said


@pytest.fixture
def folder(tmp_path) -> Path:
    return Path(shutil.copytree(GOLDEN_HF / HF_NAME, tmp_path / "hf", copy_function=shutil.copyfile))


def change_config(folder: Path, **changes) -> None:
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"model_type": "gpt2"}, "gpt2"),
        ({"layer_norm_epsilon": 1e-3}, "layer_norm_epsilon=0.001"),
        ({"attn_type": 1}, "attn_type=1"),
        ({"vocab_size": 199}, "has 200 rows, but the configuration requires 199"),
        ({"vocab_size": 201}, "emb_layers.0.weight"),
        ({"vocab_size": "many"}, "n_token=many"),
        ({"n_layer": 4}, "lack 'layers.3"),
        ({"n_layer": 2}, "layers.2"),
        ({"n_layer": None}, "n_layer"),
        ({"d_inner": 60}, "CoreNet.0.weight"),
        ({"cutoffs": None}, "cutoffs=None"),
        ({"cutoffs": [20, 40]}, "cluster_weight"),
        ({"cutoffs": [40, 20, 80]}, "ascending"),
        ({"untie_r": False}, "lack 'r_w_bias'"),
        ({"d_head": "wide"}, "'wide'"),
    ],
)
def test_a_configuration_of_another_model_is_refused(folder, changes, said):
    change_config(folder, **changes)
    assert said in refusal(imported_from("hf", folder))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "noise"])
def test_a_missing_or_damaged_file_is_named(folder, name, damage):
    path = folder / name
    content = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes({"empty": b"", "truncated": content[:-9], "noise": bytes(range(256)) * 2}[damage])
    assert name in refusal(imported_from("hf", folder))


def test_a_missing_weight_is_named(folder):
    weights = load_file(folder / "model.safetensors")
    del weights["transformer.layers.1.dec_attn.o_net.weight"]
    save_file(weights, folder / "model.safetensors")
    assert "layers.1.dec_attn.o_net.weight" in refusal(imported_from("hf", folder))


def test_weights_that_are_not_finite_are_refused(folder):
    weights = load_file(folder / "model.safetensors")
    weights["crit.cluster_bias"][1] = torch.nan
    save_file(weights, folder / "model.safetensors")
    assert "crit.cluster_bias hold numbers" in refusal(imported_from("hf", folder))


@pytest.mark.parametrize("count", [199, 201])
def test_a_vocabulary_of_another_size_is_refused(tmp_path, folder, count):
    (tmp_path / "vocab.txt").write_text("\n".join(words(count)))
    said = refusal(imported_from("hf", folder, vocabulary=str(tmp_path / "vocab.txt")))
    assert f"{count} words" in said and "200 entries" in said and "import.vocabulary" in said
    fairseq = fairseq_file(tmp_path / "checkpoint_best.pt", "dicts")
    fairseq.vocabulary = str(tmp_path / "dict.txt")
    (tmp_path / "dict.txt").write_text("".join(f"w{i} 1\n" for i in range(count - 4)))
    assert f"{count} words" in refusal(fairseq)


@pytest.mark.parametrize("make", [original_file, nvidia_file, lambda path, name: fairseq_file(path, "namespace")])
@pytest.mark.parametrize("damage", ["empty", "truncated", "noise", "text", "list"])
def test_a_damaged_torch_file_is_named(tmp_path, make, damage):
    path = tmp_path / "checkpoint.pt"
    config = make(path, NAME)
    content = path.read_bytes()
    half = content[: len(content) // 2]
    if damage == "list":
        torch.save([1, 2], path)
    else:
        path.write_bytes({"empty": b"", "truncated": half, "noise": bytes(range(256)) * 4, "text": b"hello\n"}[damage])
    assert "checkpoint.pt" in refusal(config)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"noise" * 30])
def test_a_damaged_npz_is_named(tmp_path, content):
    config = original_file(tmp_path / "weights.npz", NAME)
    Path(config.path).write_bytes(content)
    assert "weights.npz" in refusal(config)


def test_an_npz_of_pickled_objects_is_refused(tmp_path):
    np.savez(tmp_path / "weights.npz", r_w_bias=np.array([{}], dtype=object))
    config = original_file(tmp_path / "other.npz", NAME)
    config.path = str(tmp_path / "weights.npz")
    assert "weights.npz" in refusal(config)


class Danger:
    """Makes a file when it is unpickled as pickles usually are."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.makedirs, (str(self.path), 0o777, True)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("make", [nvidia_file, lambda path, name: fairseq_file(path, "dicts")])
def test_nothing_that_a_file_names_is_run(tmp_path, make, zipped):
    path, mark = tmp_path / "checkpoint.pt", tmp_path / "it ran"
    config = make(path, NAME)
    held = {"model": {}, "model_config": {}, "model_state": {}, "args": Danger(mark), "cfg": Danger(mark)}
    torch.save(held, path, _use_new_zipfile_serialization=zipped)
    refusal(config)
    assert not mark.exists()
    torch.load(path, weights_only=False)
    assert mark.exists(), "the test shows nothing: the file is harmless"


def test_nothing_that_a_pickle_names_is_run(tmp_path):
    path, mark = tmp_path / "vocab.pkl", tmp_path / "it ran"
    path.write_bytes(pickle.dumps({"idx2sym": ["a"], "other": Danger(mark)}))
    held = load_pickle(path)
    assert isinstance(held["other"], Placeholder) and held["other"].arguments == (str(mark), 0o777, True)
    assert not mark.exists()


@pytest.mark.parametrize("content", [b"", b"\x80\x04", pickle.dumps([1, 2, 3]), pickle.dumps({"idx2sym": 5})])
def test_a_file_without_a_vocabulary_is_named(tmp_path, content):
    (tmp_path / "vocab.pkl").write_bytes(content)
    config = imported_from("hf", GOLDEN_HF / HF_NAME, vocabulary=str(tmp_path / "vocab.pkl"))
    assert "vocab.pkl" in refusal(config)


@pytest.mark.parametrize("format", ["original", "fairseq", "nvidia"])
def test_a_directory_in_a_files_place_is_refused(tmp_path, format):
    assert "must be a checkpoint file" in refusal(imported_from(format, tmp_path))


@pytest.mark.parametrize("key", ["model_config", "model_state"])
def test_a_part_that_nvidias_checkpoint_lacks_is_named(tmp_path, key):
    config = nvidia_file(tmp_path / "checkpoint.pt", "a_plain")
    torch.save({other: {} for other in ("model_config", "model_state") if other != key}, config.path)
    assert key in refusal(config)


def test_settings_that_fairseqs_checkpoint_lacks_are_named(tmp_path):
    config = fairseq_file(tmp_path / "checkpoint.pt", "dicts")
    held = torch.load(config.path, weights_only=False)
    del held["cfg"]["model"]["d_head"], held["cfg"]["model"]["mem_len"]
    torch.save(held, config.path)
    assert "lacks the settings d_head, mem_len" in refusal(config)
    torch.save(held | {"cfg": None}, config.path)
    assert "neither cfg nor args" in refusal(config)
    torch.save(held | {"model": {"encoder.weight": torch.zeros(1)}}, config.path)
    assert "truncated-BPTT example" in refusal(config)


def test_arguments_that_are_not_known_are_asked_for(tmp_path):
    torch.save(original_weights(NAME), tmp_path / "state_dict.pt")
    assert "import.config=FILE" in refusal(imported_from("original", tmp_path / "state_dict.pt"))
    arguments = {k: v for k, v in MANIFEST["models"][NAME]["config"].items() if k != "n_token"}
    (tmp_path / "args.json").write_text(json.dumps(arguments))
    config = imported_from("original", tmp_path / "state_dict.pt", config=str(tmp_path / "args.json"))
    assert "lack n_token" in refusal(config)


def test_a_run_directory_that_has_checkpoints_is_left_as_it_is(tmp_path):
    config = nvidia_file(tmp_path / "checkpoint.pt", "a_plain")
    (tmp_path / "run/checkpoints/step_00000001").mkdir(parents=True)
    with pytest.raises(UserError, match="has checkpoints already"):
        write(read(config), config, tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").rglob("*")] == ["checkpoints", "step_00000001"]


def test_what_an_interrupted_import_has_left_does_not_hinder_the_next(tmp_path):
    config = nvidia_file(tmp_path / "checkpoint.pt", "a_plain")
    (tmp_path / "run/checkpoints/step_00000001.writing").mkdir(parents=True)
    write(read(config), config, tmp_path / "run")
    assert find_checkpoint(str(tmp_path / "run")).folder.parent == tmp_path / "run/checkpoints"

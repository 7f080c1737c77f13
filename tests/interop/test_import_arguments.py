"""The original's arguments are found where train.py leaves them; those of a model that does not exist are refused."""

import json

import pytest
import torch

from tbptt.errors import UserError
from tbptt.interop.importing import read
from tbptt.interop.original_files import logged_arguments
from tests.interop.foreign_files import (
    fairseq_file,
    imported_from,
    log_of_train,
    nvidia_file,
    original_file,
    original_weights,
)
from tests.interop.test_import import assert_losses_of_the_original
from tests.models.recorded import MANIFEST

NAME = "a_plain"


def refusal(config) -> str:
    with pytest.raises(UserError) as refused:
        config.check()
        read(config)
    said = str(refused.value)
    assert "\n" not in said
    return said


@pytest.mark.parametrize("given", [False, True])
def test_the_arguments_in_the_log_of_train(tmp_path, given):
    """Beside the checkpoint, or given as import.config."""
    torch.save(original_weights(NAME), tmp_path / "state_dict.pt")
    log = log_of_train(tmp_path / ("other.log" if given else "log.txt"), NAME)
    imported = read(imported_from("original", tmp_path / "state_dict.pt", config=str(log) if given else None))
    assert_losses_of_the_original(imported.model, NAME)
    assert (imported.config.tgt_len, imported.config.dropout, imported.config.same_length) == (8, 0.1, False)


def test_the_arguments_of_the_last_start_count(tmp_path):
    first, second = (log_of_train(tmp_path / "log.txt", NAME, mem_len=n, clamp_len=n).read_text() for n in (1, 2))
    between = (
        "| epoch   1 step      200 | loss  7.01\n    - mem_len : 7\n" + "=" * 100 + "\n| End of training\n" + "=" * 100
    )
    arguments = logged_arguments(f"{first}{between}\n{second}{between}\n    - mem_len : 7\n")
    assert arguments["mem_len"] == arguments["clamp_len"] == 2
    assert arguments["data"] == "../data/enwik8/ : x" and arguments["restart_dir"] == "" and arguments["tied"] is True
    assert logged_arguments(first.replace("\n", "\r\n")) == logged_arguments(first)
    assert logged_arguments("    - mem_len : 7\n" + between) == {}


def test_adaptive_cutoffs_are_those_of_the_dataset(tmp_path):
    """And unknown for another: that is said, instead of an error about shapes."""
    log_of_train(tmp_path / "log.txt", NAME, adaptive=True, dataset="wt103")
    torch.save(original_weights(NAME), tmp_path / "state_dict.pt")
    assert "cutoffs=[20000, 40000, 200000] beyond" in refusal(imported_from("original", tmp_path / "state_dict.pt"))
    log_of_train(tmp_path / "log.txt", NAME, adaptive=True, dataset="wt2")
    said = refusal(imported_from("original", tmp_path / "state_dict.pt"))
    assert "dataset=wt2" in said and "no cutoffs" in said and "import.config" in said


@pytest.mark.parametrize("content", ["", "| epoch 1\n", "=" * 100 + "\n    - n_layer : 3\n", "[1, 2]", "\x00\xff"])
def test_a_file_without_arguments_is_not_taken_for_one(tmp_path, content):
    torch.save(original_weights(NAME), tmp_path / "state_dict.pt")
    (tmp_path / "log.txt").write_text(content)
    assert "nor does a log.txt" in refusal(imported_from("original", tmp_path / "state_dict.pt"))
    config = imported_from("original", tmp_path / "state_dict.pt", config=str(tmp_path / "log.txt"))
    assert "import.config=" in refusal(config)
    config.config = str(tmp_path)
    assert "import.config=" in refusal(config)


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"cutoffs": [20, 40, 97]}, "cutoffs=[20, 40, 97] beyond its vocabulary of n_token=97"),
        ({"cutoffs": [40, 20]}, "cutoffs=[40, 20] must be positive and ascending"),
        ({"same_length": True, "mem_len": 0}, "mem_len=0 must be 1 or more with same_length=true"),
        ({"dropout": 1.5}, "dropout=1.5"),
        ({"n_head": 0}, "n_head=0"),
        ({"tie_projs": []}, "tie_projs has 0 entries"),
    ],
)
def test_arguments_of_no_model_are_refused_without_advice_on_settings_of_training(tmp_path, changes, said):
    """An import takes no model.* settings: they would be the wrong thing to set."""
    config = original_file(tmp_path / "weights.npz", NAME)
    (tmp_path / "args.json").write_text(json.dumps(MANIFEST["models"][NAME]["config"] | changes))
    refused = refusal(config)
    assert said in refused and "model." not in refused and "checkpoint's settings" in refused


def test_cutoffs_beyond_the_vocabulary_in_the_other_formats(tmp_path):
    refused = refusal(nvidia_file(tmp_path / "checkpoint.pt", NAME, cutoffs=[20, 97]))
    assert "cutoffs=[20, 97] beyond its vocabulary" in refused and "model." not in refused
    assert read(fairseq_file(tmp_path / "other.pt", "dicts", cutoffs=[20, 40, 80, 500])).config.cutoffs == [20, 40, 80]


@pytest.mark.parametrize("format", ["original", "hf", "fairseq", "nvidia"])
@pytest.mark.parametrize("found", ["dict.txt", "cache.pt", "vocab.txt", None])
def test_a_folder_is_no_vocabulary(tmp_path, format, found):
    """It is refused, naming the vocabulary in it, not left out."""
    folder = tmp_path / "data-bin"
    folder.mkdir()
    if found:
        (folder / found).write_text("")
    config = {
        "original": lambda path: original_file(path, NAME),
        "fairseq": lambda path: fairseq_file(path, "dicts"),
        "nvidia": lambda path: nvidia_file(path, NAME),
        "hf": lambda path: imported_from("hf", tmp_path),
    }[format](tmp_path / "checkpoint.pt")
    config.vocabulary = str(folder)
    said = refusal(config)
    assert f"import.vocabulary={folder} is a folder" in said
    assert (f"import.vocabulary={folder / found}" if found else "it has none of these") in said

"""Models of the other systems, brought in from their own files, have the losses recorded of them."""

import json
import pickle
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tbptt.data.config import Level
from tbptt.data.vocabulary import Vocabulary
from tbptt.errors import UserError
from tbptt.interop.importing import read
from tbptt.models.transformer_xl import TransformerXL
from tbptt.tasks.import_model import write
from tbptt.training.checkpoints import find_checkpoint
from tests.helpers import assert_close
from tests.interop.foreign_files import (
    GOLDEN_HF,
    HF_NAME,
    HF_SETTINGS,
    MODELS,
    fairseq_file,
    imported_from,
    losses,
    nvidia_file,
    original_file,
    original_weights,
    pretended,
    words,
)
from tests.models.recorded import GOLDEN, MANIFEST


def recorded_hf() -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array) for name, array in np.load(GOLDEN_HF / f"{HF_NAME}.expected.npz").items()}


def assert_losses_of_the_original(model: TransformerXL, model_name: str) -> None:
    recorded = np.load(GOLDEN / MANIFEST["models"][model_name]["expected"])
    tokens_BL = torch.from_numpy(recorded["tokens"]).T
    for name, setting in MANIFEST["settings"].items():
        ours = losses(model.double().eval(), tokens_BL, setting)
        assert_close(ours.T, recorded[f"{name}/nll64"], 1e-10)


def assert_losses_of_hf(model: TransformerXL) -> None:
    recorded = recorded_hf()
    for name, setting in HF_SETTINGS.items():
        for start in ("zeros", "empty"):
            ours = losses(model.double().eval(), recorded["tokens"], setting, initial_memory=start)
            assert_close(ours, recorded[f"{name}/nll64_{start}"], 1e-10)


@pytest.mark.parametrize("suffix", ["pt", "npz"])
@pytest.mark.parametrize("model_name", MODELS)
def test_the_originals_losses(tmp_path, model_name, suffix):
    imported = read(original_file(tmp_path / f"weights.{suffix}", model_name))
    assert_losses_of_the_original(imported.model, model_name)
    assert sum(p.numel() for p in imported.model.parameters()) == MANIFEST["models"][model_name]["n_params"]


def test_the_originals_losses_with_the_arguments_of_its_script(tmp_path):
    info = MANIFEST["models"]["a_plain"]["config"]
    kept = {key: info[key] for key in ("n_token", "n_layer", "n_head", "d_model", "d_head", "d_inner", "div_val")}
    args = kept | {"dataset": "enwik8", "adaptive": False, "d_embed": -1, "not_tied": False, "lr": 0.1, "mem_len": 8}
    torch.save({"model": original_weights("a_plain"), "args": args}, tmp_path / "checkpoint.pt")
    imported = read(imported_from("original", tmp_path / "checkpoint.pt"))
    assert_losses_of_the_original(imported.model, "a_plain")
    assert imported.config.mem_len == 8


def test_a_state_dict_of_a_parallel_module_is_read(tmp_path):
    """DataParallel and the original's FP16_Module put "module." before every name."""
    config = original_file(tmp_path / "weights.pt", "a_plain")
    torch.save({f"module.{name}": value for name, value in original_weights("a_plain").items()}, config.path)
    assert_losses_of_the_original(read(config).model, "a_plain")


@pytest.mark.parametrize("model_name", MODELS)
def test_nvidias_losses_are_the_originals(tmp_path, model_name):
    imported = read(nvidia_file(tmp_path / "checkpoint_best.pt", model_name))
    assert_losses_of_the_original(imported.model, model_name)
    assert imported.vocabulary.symbols == words(len(imported.vocabulary)) and imported.step == 40
    assert any("jitlamb" in note for note in imported.notes) and any("one larger" in note for note in imported.notes)


def test_nvidias_window_is_one_wider(tmp_path):
    changes = {"same_length": True, "mem_len": 7, "clamp_len": 3}
    imported = read(nvidia_file(tmp_path / "checkpoint_best.pt", "b_adaptive_div1", **changes))
    setting = MANIFEST["settings"]["t8_m8_c3_same"]
    assert imported.config.mem_len == setting["mem_len"] == 8 and imported.config.same_length
    recorded = np.load(GOLDEN / "b_adaptive_div1.expected.npz")
    model, tokens_BL = imported.model.double().eval(), torch.from_numpy(recorded["tokens"]).T
    own = model.context() | {"segment_lengths": setting["segment_lengths"]}
    assert_close(losses(model, tokens_BL, own).T, recorded["t8_m8_c3_same/nll64"], 1e-10)
    assert any("model.mem_len=8 here" in note for note in imported.notes)


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_huggingfaces_losses_from_both_starts(tmp_path, file):
    folder = shutil.copytree(GOLDEN_HF / HF_NAME, tmp_path / "hf", copy_function=shutil.copyfile)
    if file != "model.safetensors":
        weights = load_file(folder / "model.safetensors")
        weights["crit.out_layers.0.weight"] = weights["transformer.word_emb.emb_layers.0.weight"]
        torch.save(weights, folder / file)
        (folder / "model.safetensors").unlink()
    imported = read(imported_from("hf", folder))
    assert_losses_of_hf(imported.model)
    assert sum(p.numel() for p in imported.model.parameters()) == 35211


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_huggingfaces_shards_are_read_together(tmp_path, file):
    folder = shutil.copytree(GOLDEN_HF / HF_NAME, tmp_path / "hf", copy_function=shutil.copyfile)
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    stem, suffix = file.split(".")
    shards = [f"{stem}-0000{i}-of-00002.{suffix}" for i in (1, 2)]
    places = {name: shards[i % 2] for i, name in enumerate(weights)}
    for shard in shards:
        part = {name: value for name, value in weights.items() if places[name] == shard}
        (save_file if suffix == "safetensors" else torch.save)(part, folder / shard)
    index = folder / f"{file}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))
    assert_losses_of_hf(read(imported_from("hf", folder)).model)
    (folder / shards[1]).unlink()
    with pytest.raises(UserError, match=rf"lacks {shards[1]}, which {file}\.index\.json lists"):
        read(imported_from("hf", folder))
    for content in ("{}", '{"weight_map": [1]}', '{"weight_map": {"a": 1}}', "["):
        index.write_text(content)
        with pytest.raises(UserError, match=f"import.path={index}"):
            read(imported_from("hf", folder))


def test_the_two_starts_differ():
    recorded = recorded_hf()
    assert (recorded["native/nll64_zeros"] - recorded["native/nll64_empty"]).abs().max() > 0.1


@pytest.mark.parametrize("how", ["namespace", "omegaconf", "dicts"])
def test_fairseqs_losses_are_huggingfaces(tmp_path, how):
    config = fairseq_file(tmp_path / "checkpoint_best.pt", how)
    (tmp_path / "dict.txt").write_text("".join(f"w{i} {200 - i}\n" for i in range(196)))
    imported = read(config)
    assert_losses_of_hf(imported.model)
    assert (imported.config.tgt_len, imported.config.mem_len, imported.step) == (8, 16, 40)
    assert imported.vocabulary.symbols[:5] == ["<s>", "<pad>", "</s>", "<unk>", "w0"]
    assert any("never empties" in note for note in imported.notes)


def test_fairseqs_cutoffs_beyond_the_vocabulary_are_left_out_as_it_does(tmp_path):
    config = fairseq_file(tmp_path / "checkpoint_best.pt", "dicts", cutoffs=[20, 40, 80, 20000])
    assert read(config).config.cutoffs == [20, 40, 80]


@pytest.mark.parametrize("name", ["vocab.txt", "vocab.pkl", "vocab.bin", "cache.pt", "vocabulary.json"])
def test_every_kind_of_vocabulary_file_is_read(tmp_path, name):
    symbols, path = words(200), tmp_path / name
    held = {"idx2sym": symbols, "sym2idx": {symbol: i for i, symbol in enumerate(symbols)}}
    if name == "vocab.txt":
        path.write_text("".join(f"{symbol}\n" for symbol in symbols))
    elif name == "vocab.pkl":
        with pretended("sacremoses.normalize", "MosesPunctNormalizer") as other:
            path.write_bytes(pickle.dumps(held | {"moses_punct_normalizer": other()}))
    elif name == "vocab.bin":
        torch.save(held, path)
    elif name == "cache.pt":
        with pretended("data_utils", "Corpus") as corpus, pretended("vocabulary", "Vocab") as vocabulary:
            made = corpus()
            made.train, made.vocab = torch.zeros(3), vocabulary()
            made.vocab.idx2sym = symbols
            torch.save(made, path)
    else:
        path.write_text(json.dumps({"level": "word", "symbols": symbols}))
    assert read(imported_from("hf", GOLDEN_HF / HF_NAME, vocabulary=str(path))).vocabulary.symbols == symbols


def test_a_run_directory_holds_the_model_its_settings_and_its_words(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(words(200)))
    config = imported_from("hf", GOLDEN_HF / HF_NAME, vocabulary=str(tmp_path / "vocab.txt"))
    imported, run_dir = read(config), tmp_path / "run"
    run_dir.mkdir()
    write(imported, config, run_dir)
    checkpoint = find_checkpoint(str(run_dir))
    model = imported.config.build(200)
    checkpoint.load_weights(model)
    assert_losses_of_hf(model)
    assert json.loads((run_dir / "vocabulary.json").read_text())["symbols"] == words(200)
    assert checkpoint.info["config"]["model"]["mem_len"] == 16


def test_weights_in_half_precision_are_said_to_be(tmp_path):
    folder = shutil.copytree(GOLDEN_HF / HF_NAME, tmp_path / "hf", copy_function=shutil.copyfile)
    half = {name: value.half() for name, value in load_file(folder / "model.safetensors").items()}
    save_file(half, folder / "model.safetensors")
    imported = read(imported_from("hf", folder))
    assert any("stored in float16" in note for note in imported.notes)
    assert torch.equal(imported.model.softmax.cluster_bias, half["crit.cluster_bias"].float().flip(0))


def test_the_words_of_a_corpus_must_be_the_models_in_the_same_order(tmp_path, caplog):
    (tmp_path / "vocab.txt").write_text("\n".join(words(200)))
    runs = {}
    for name, vocabulary in (("with", str(tmp_path / "vocab.txt")), ("without", None)):
        config = imported_from("hf", GOLDEN_HF / HF_NAME, vocabulary=vocabulary)
        (tmp_path / name).mkdir()
        write(read(config), config, tmp_path / name)
        runs[name] = find_checkpoint(str(tmp_path / name))
    same, other = (Vocabulary(Level.word, symbols) for symbols in (words(200), words(200)[::-1]))
    identities = [{"vocabulary_sha256": each.sha256, "vocab_size": 200} for each in (same, other)]
    runs["with"].check_vocabulary(identities[0])
    with pytest.raises(UserError, match="same entries in another order"):
        runs["with"].check_vocabulary(identities[1])
    assert not caplog.text
    runs["without"].check_vocabulary(identities[1])
    assert "only the vocabulary size was compared" in caplog.text
    with pytest.raises(UserError, match="199 entries"):
        runs["without"].check_vocabulary(identities[0] | {"vocab_size": 199})

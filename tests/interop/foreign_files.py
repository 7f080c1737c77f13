"""Checkpoints as the other systems write them, made of the recorded models, and what was recorded of those."""

import json
import sys
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file
from torch import Tensor

from tbptt.interop import original
from tbptt.interop.config import ImportConfig, ImportFormat
from tbptt.models.transformer_xl import TransformerXL
from tests.models.recorded import GOLDEN, MANIFEST
from tests.models.tiny import run_segments

GOLDEN_HF = Path(__file__).parents[1] / "golden_hf"
HF_NAME = "wt103style_div1"
HF_SETTINGS = json.loads((GOLDEN_HF / "manifest.json").read_text())["models"][HF_NAME]["settings"]
HF_SIZES = ("n_layer", "d_model", "n_head", "d_head", "d_inner", "div_val", "cutoffs", "mem_len", "clamp_len",
            "same_length", "dropout", "dropatt")  # fmt: skip
CONTEXT = ("mem_len", "clamp_len", "same_length")
MODELS = sorted(MANIFEST["models"])


def words(count: int) -> list[str]:
    return ["<eos>", "<unk>", *(f"w{i}" for i in range(count - 2))]


@contextmanager
def pretended(module: str, name: str) -> Iterator[type]:
    """A class that can be pickled under a name whose module does not exist once this is over."""
    made = type(name, (), {"__module__": module})
    parents = [".".join(module.split(".")[: i + 1]) for i in range(module.count(".") + 1)]
    before = {parent: sys.modules.get(parent) for parent in parents}
    sys.modules |= {parent: ModuleType(parent) for parent in parents}
    setattr(sys.modules[module], name, made)
    try:
        yield made
    finally:
        for parent, was in before.items():
            sys.modules.pop(parent) if was is None else sys.modules.update({parent: was})


def imported_from(format: str, path: Path, **settings) -> ImportConfig:
    return ImportConfig(ImportFormat[format], str(path), **settings)


def original_weights(model_name: str) -> dict[str, Tensor]:
    """In the order of the original's state dict, tied weights as one tensor under each of their names."""
    info = MANIFEST["models"][model_name]
    weights = {name: torch.from_numpy(array) for name, array in np.load(GOLDEN / info["weights"]).items()}
    for first, *again in info["tied_groups"]:
        weights |= {name: weights[first] for name in again}
    return weights


def original_file(path: Path, model_name: str, **settings) -> ImportConfig:
    """The weights in a file of the kind its name says, and the arguments in another."""
    weights, arguments = original_weights(model_name), path.with_name("args.json")
    arguments.write_text(json.dumps(MANIFEST["models"][model_name]["config"]))
    if path.suffix == ".npz":
        np.savez(path, **{name: value.numpy() for name, value in weights.items()})
    else:
        torch.save(weights, path)
    return imported_from("original", path, config=str(arguments), **settings)


def log_of_train(path: Path, model_name: str, **changes) -> Path:
    """log.txt as train.py of the original writes it, with its arguments between two rulers."""
    sizes = ("n_token", "n_layer", "n_head", "d_model", "d_head", "d_inner", "div_val")
    args: dict[str, Any] = {"data": "../data/enwik8/ : x", "dataset": "enwik8"}
    args |= {key: MANIFEST["models"][model_name]["config"][key] for key in sizes}
    args |= {"d_embed": -1, "dropout": 0.1, "dropatt": 0.0, "optim": "adam", "lr": 0.00025, "tgt_len": 8, "ext_len": 0}
    args |= {"mem_len": 8, "not_tied": False, "adaptive": False, "pre_lnorm": False, "restart_dir": "", "attn_type": 0}
    args |= {"same_length": False, "clamp_len": -1, "sample_softmax": -1, "tied": True} | changes
    lines = ["=" * 100, *(f"    - {key} : {value}" for key, value in args.items()), "=" * 100, "#params = 88214230"]
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def nvidia_file(path: Path, model_name: str, optimizer: dict[str, Any] | None = None, **changes) -> ImportConfig:
    """What save_checkpoint of train.py writes; `changes` are arguments of the constructor."""
    arguments = MANIFEST["models"][model_name]["config"] | {"dtype": None, "ext_len": 0, "tgt_len": 8, "mem_len": 8}
    model = original.model_config(MANIFEST["models"][model_name]["config"]).build(arguments["n_token"])
    state, tied = {}, original.tied_names(model)
    for name, value in original_weights(model_name).items():
        for there, here in (("weight", "weights"), ("bias", "biases")):
            if name.startswith("crit.out_layers.") and name.endswith(f".{there}"):
                renamed = f"crit.out_layers_{here}.{name.split('.')[2]}"
                break
        else:
            renamed = name
        if name not in tied:
            state[renamed] = value
    state |= {
        name.replace("word_emb.emb_projs", "crit.shared_out_projs"): value
        for name, value in original_weights(model_name).items()
        if name.startswith("word_emb.emb_projs")
    }
    with pretended("utils.vocabulary", "Vocab") as vocabulary:
        vocab = vocabulary()
        vocab.idx2sym = words(arguments["n_token"])
        torch.save(
            {
                "args": Namespace(optim="adam" if optimizer else "jitlamb", lr=0.01),
                "model_config": arguments | changes,
                "model_state": state,
                "optimizer_state": optimizer or {"state": {}, "param_groups": []},
                "scheduler_state": {"last_epoch": 40},
                "vocab": vocab,
                "best_val_loss": np.float64(3.5),
                "train_step": 40,
            },
            path,
        )
    return imported_from("nvidia", path)


class Kind(Enum):
    """Of a setting, as fairseq's have some."""

    mean = "mean"


def fairseq_file(path: Path, how: str, optimizer: dict[str, Any] | None = None, **changes) -> ImportConfig:
    """checkpoint_best.pt of the truncated-BPTT example, settings pickled as a Namespace, by OmegaConf or as dicts."""
    weights = load_file(GOLDEN_HF / HF_NAME / "model.safetensors")
    weights["crit.out_layers.0.weight"] = weights["transformer.word_emb.emb_layers.0.weight"]
    config = json.loads((GOLDEN_HF / HF_NAME / "config.json").read_text())
    model = {key: config[key] for key in HF_SIZES} | changes
    if how == "namespace":
        held = {"args": Namespace(arch="transformer_xl", optimizer="adam", tokens_per_sample=8, **model)}
    else:
        groups = {
            "_name": None,
            "common": {"seed": 1, "reduction": Kind.mean},
            "task": {"_name": "truncated_bptt_lm", "tokens_per_sample": 8},
            "model": {"_name": "transformer_xl", **model, "max_target_positions": "${task.tokens_per_sample}"},
            "optimizer": {"_name": "adam", "adam_betas": "(0.9, 0.999)", "weight_decay": 0.0},
        }
        held = {"cfg": OmegaConf.create(groups) if how == "omegaconf" else groups, "args": None}
    history = [{"optimizer_name": "FairseqAdam", "lr_scheduler_state": {"best": None}, "num_updates": 40}]
    state = {f"decoder.model.{name}": value for name, value in weights.items()}
    torch.save(held | {"model": state, "optimizer_history": history, "last_optimizer_state": optimizer}, path)
    return imported_from("fairseq", path)


@torch.no_grad()
def losses(model: TransformerXL, tokens_BL: Tensor, setting: dict[str, Any], **context) -> Tensor:
    """(B, L) nats in a recorded setting."""
    model.set_context(**{key: setting[key] for key in CONTEXT} | context)
    nll_BL, _ = run_segments(model, tokens_BL[:, :-1], tokens_BL[:, 1:], setting["segment_lengths"])
    return nll_BL

"""Stacks of our own, one for every model type that export.format=hf writes, with weights that are a formula."""

import hashlib
import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from tbptt.interop import hf
from tbptt.models.mixers import (
    AttentionConfig,
    GatedDeltaConfig,
    GLAConfig,
    Mamba2Config,
    MLSTMConfig,
    RGLRUConfig,
)
from tbptt.models.mixers.attention import QueryKeyNorm
from tbptt.models.norms import Norm
from tbptt.models.stack import FeedForwardKind, Stack, StackConfig

RECORDED = Path(__file__).with_name("recorded.json")
N_TOKEN = 30
TOKENS = torch.tensor([[(7 * i * i + 3 * i + lane) % N_TOKEN for i in range(25)] for lane in range(2)])
SMALL = {"n_layer": 2, "d_model": 16, "d_inner": 24}
DELTA = {"n_head": 2, "n_value_head": 4, "d_key": 8, "d_value": 12}
QWEN = StackConfig(
    **SMALL,
    layers=["gated_delta", "attention"],
    norm=Norm.rms_plus_one,
    norm_eps=1e-6,
    gated_delta=GatedDeltaConfig(**DELTA, norm_eps=1e-6),
    attention=AttentionConfig(
        n_head=2,
        n_kv_head=1,
        d_head=8,
        window=None,
        rotary_share=0.5,
        qk_norm=QueryKeyNorm.head_plus_one,
        norm_eps=1e-6,
        output_gate=True,
    ),
)
MODELS = {
    "mamba2": StackConfig(
        **SMALL,
        layers=["mamba2"],
        feed_forward=FeedForwardKind.none,
        mamba2=Mamba2Config(d_head=8, d_state=8, n_group=2),
    ),
    "xlstm": StackConfig(
        **SMALL | {"d_model": 32},
        tie_weight=False,
        layers=["mlstm"],
        norm_eps=1e-6,
        logit_cap=30.0,
        mlstm=MLSTMConfig(n_head=2, d_key=32, d_value=32),
    ),
    "olmo_hybrid": StackConfig(
        **SMALL,
        layers=["gated_delta", "attention"],
        norm_eps=1e-6,
        norm_after=["attention"],
        gated_delta=GatedDeltaConfig(**DELTA, negative_eigenvalues=True),
        attention=AttentionConfig(n_head=2, d_head=8, window=None, qk_norm=QueryKeyNorm.all, norm_eps=1e-6),
    ),
    "qwen3_next": QWEN,
    "qwen3_5_text": QWEN,
    "recurrent_gemma": StackConfig(
        **SMALL | {"n_layer": 3},
        layers=["rg_lru", "rg_lru", "attention"],
        feed_forward=FeedForwardKind.geglu,
        feed_forward_bias=True,
        norm=Norm.rms_plus_one,
        norm_eps=1e-6,
        scale_embedding=True,
        embedding_scale=4.0,
        logit_cap=30.0,
        rg_lru=RGLRUConfig(n_block=2),
        attention=AttentionConfig(n_head=2, n_kv_head=1, d_head=8, window=6, rotary_share=0.5, output_bias=True),
    ),
    "gated_deltanet": StackConfig(
        **SMALL, layers=["gated_delta"], norm_eps=1e-6, gated_delta=GatedDeltaConfig(**DELTA, norm_eps=1e-6)
    ),
    "gla": StackConfig(**SMALL, tie_weight=False, layers=["gla"], gla=GLAConfig(n_head=2, d_key=4, d_value=8)),
}
OF_FLA = ("gated_deltanet", "gla")


@torch.no_grad()
def model_of(name: str) -> Stack:
    """Whole numbers below 1009 make the weights, so that they are the same bits everywhere."""
    model = MODELS[name].build(N_TOKEN)
    for k, parameter in enumerate(model.parameters()):
        numbers = (torch.arange(parameter.numel()) * 7919 + 31 * k) % 1009
        parameter.copy_((numbers.double() / 1009 - 0.5).reshape(parameter.shape))
    return model


def exported(name: str, folder: Path) -> Path:
    hf.write(model_of(name), MODELS[name], None, folder, name)
    return folder


def digest(folder: Path) -> str:
    """Of all settings and all bytes of all tensors of an exported directory."""
    found = hashlib.sha256(json.dumps(json.loads((folder / "config.json").read_text()), sort_keys=True).encode())
    for name, value in sorted(load_file(folder / "model.safetensors").items()):
        found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        found.update(value.numpy().tobytes())
    return found.hexdigest()


def recorded(name: str) -> tuple[str, Tensor]:
    """The digest of the directory, and the losses (2, 24) that its own class computes of it in float64."""
    found = json.loads(RECORDED.read_text())["models"][name]
    return found["sha256"], torch.tensor(found["nll64"], dtype=torch.float64)

"""Tiny models with weights far from 0, random tokens, and segments run one after the other."""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from tbptt.models.lstm import LSTMConfig
from tbptt.models.mixers import (
    AttentionConfig,
    GatedDeltaConfig,
    GLAConfig,
    Mamba2Config,
    MLSTMConfig,
    RelativeAttentionConfig,
    RGLRUConfig,
    SLSTMConfig,
)
from tbptt.models.protocol import ModelConfig, RecurrentModel, State
from tbptt.models.stack import StackConfig
from tbptt.models.transformer_xl import TransformerXLConfig

VOCABULARY = 30


def tiny_txl(dtype=torch.float64, checkpointing: bool = False, seed: int = 0, **settings) -> RecurrentModel:
    sizes = {"n_layer": 2, "d_model": 8, "n_head": 2, "d_head": 4, "d_inner": 12, "tgt_len": 4, "mem_len": 6}
    return _build(TransformerXLConfig(**sizes | settings), dtype, seed, checkpointing)


def tiny_lstm(dtype=torch.float64, seed: int = 0, **settings) -> RecurrentModel:
    return _build(LSTMConfig(**{"n_layer": 2, "d_model": 8, "tgt_len": 4} | settings), dtype, seed)


MIXERS = ("gated_delta", "mamba2", "mlstm", "slstm", "rg_lru", "gla", "lstm", "attention", "relative_attention")
STACK = {
    "softmax_bias": True,
    "d_model": 8,
    "d_inner": 12,
    "tgt_len": 4,
    "gated_delta": GatedDeltaConfig(n_head=1, n_value_head=2, d_key=4, d_value=3, chunk_len=3),
    "mamba2": Mamba2Config(d_head=4, d_state=3, n_group=2, chunk_len=4),
    "mlstm": MLSTMConfig(n_head=2, d_key=3, d_value=4, chunk_len=3),
    "slstm": SLSTMConfig(n_head=2),
    "rg_lru": RGLRUConfig(n_block=2),
    "gla": GLAConfig(n_head=2, d_key=4, d_value=3, decay_rank=2, chunk_len=4),
    "attention": AttentionConfig(n_head=2, n_kv_head=1, d_head=4, window=5),
    "relative_attention": RelativeAttentionConfig(n_head=2, d_head=4, mem_len=5, same_length=True),
}


def tiny_stack(dtype=torch.float64, checkpointing: bool = False, seed: int = 0, **settings) -> RecurrentModel:
    """By default one layer of recurrence and one of attention."""
    layers = settings.get("layers", ["gated_delta", "attention"])
    return _build(
        StackConfig(**STACK | {"layers": layers, "n_layer": len(layers)} | settings), dtype, seed, checkpointing
    )


@torch.no_grad()
def _build(config: ModelConfig, dtype: torch.dtype, seed: int, checkpointing: bool = False) -> RecurrentModel:
    """Weights that follow from the seed alone, and far from 0, so that what a loss must depend on shows in it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = config.build(VOCABULARY, checkpointing).to(dtype)
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return model


def random_tokens(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(VOCABULARY, shape, generator=torch.Generator().manual_seed(seed))


def random_stream(n_tokens: int, seed: int = 0) -> np.ndarray:
    return random_tokens(n_tokens, seed=seed).numpy().astype(np.uint8)


def run_segments(
    model: RecurrentModel,
    tokens_BL: Tensor,
    targets_BL: Tensor,
    lengths: Iterable[int],
    state: State = None,
    starts_BL: Tensor | None = None,
) -> tuple[Tensor, State]:
    """The losses (B, L) of consecutive segments of these lengths, and the state after the last."""
    state = model.initial_state(len(tokens_BL)) if state is None else state
    nll, start = [], 0
    for length in lengths:
        part = slice(start, start + length)
        starts_BT = None if starts_BL is None else starts_BL[:, part]
        nll_BT, state = model(tokens_BL[:, part], targets_BL[:, part], state, starts_BT)
        nll.append(nll_BT)
        start += length
    return torch.cat(nll, dim=1), state

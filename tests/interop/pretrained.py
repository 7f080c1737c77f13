"""The recorded models that transformers saved, and their numbers (tests/golden_mixers/README.md)."""

import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor

from tbptt.interop import hf, stacks
from tbptt.interop.layout import to_layout
from tbptt.models.protocol import detach
from tbptt.models.stack import Stack
from tests.models.mixers.recorded import GOLDEN, load, under

TRAINED = ("mamba2", "xlstm", "olmo_hybrid", "olmo_hybrid_rope", "qwen3_next")
NAMES = (*TRAINED, "qwen3_5", "recurrent_gemma")


def folder_of(name: str) -> Path:
    return GOLDEN / f"lm_{name}"


def weights_of(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def copied(name: str, folder: Path) -> Path:
    """A copy that may be changed."""
    return Path(shutil.copytree(folder_of(name), folder / name, copy_function=shutil.copyfile))


def model_of(name: str, dtype: torch.dtype = torch.float64) -> Stack:
    made = hf.build(folder_of(name))
    assert isinstance(made, Stack)
    return made.to(dtype)


def expected(name: str) -> dict[str, Tensor]:
    return load(f"lm_{name}.expected")


def window_losses(model: Stack, tokens_BL: Tensor, lengths: list[int], window: int) -> tuple[Tensor, dict[str, Tensor]]:
    """The losses (B, L) of segments, and the gradient of their mean if states are detached every `window` segments."""
    losses, start, state = [], 0, model.initial_state(len(tokens_BL))
    model.zero_grad()
    for i, length in enumerate(lengths):
        if i % window == 0:
            state = detach(state)
        part = tokens_BL[:, start : start + length + 1]
        nll_BT, state = model(part[:, :-1], part[:, 1:], state)
        losses.append(nll_BT)
        start += length
    nll_BL = torch.cat(losses, dim=1)
    nll_BL.mean().backward()
    return nll_BL.detach(), {name: parameter.grad for name, parameter in model.named_parameters()}


def under_their_names(name: str, values: dict[str, Tensor]) -> dict[str, Tensor]:
    """Values of our parameters under the names that transformers' modules have."""
    foreign = hf.read(folder_of(name))
    assert isinstance(foreign, stacks.ForeignStack)
    return to_layout(values, foreign.family.layout(foreign.config))


def projection(x: Tensor) -> Tensor:
    """sum_i x_i cos(i), which a permutation changes."""
    return (x.flatten() * torch.arange(x.numel(), dtype=x.dtype).cos()).sum()


def recorded_gradients(name: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Norms and projections."""
    arrays = expected(name)
    return under(arrays, "grad_norm/"), under(arrays, "grad_cos/")


def tiny_tokenizer(entries: int) -> Tokenizer:
    """One of bytes, `entries` of them, the letters first."""
    letters = [chr(ord("a") + i) for i in range(26)] + ["Ġ", "Ċ"]
    names = [*letters, *(each for each in sorted(pre_tokenizers.ByteLevel.alphabet()) if each not in letters)]
    tokenizer = Tokenizer(models.BPE({name: i for i, name in enumerate(names[:entries])}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer

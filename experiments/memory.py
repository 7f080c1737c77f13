"""The memory of one training step at full size, counted without a GPU and without computing anything.

    python -m experiments.memory                                          # the paper's base run, bf16, fused attention
    python -m experiments.memory model=txl_18l trainer.activation_checkpointing=true
    python -m experiments.memory model=gdn_tiny trainer.window=4 trainer.activation_checkpointing=true

The step runs on tensors that have shapes and no data (FakeTensorMode), and MemTracker adds up what lives at once. What
libraries and gaps of the allocator take comes on top; that the numbers hold on a GPU has not been measured.
"""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from unittest.mock import patch

os.environ["TRITON_INTERPRET"] = "1"  # lets fused attention be chosen here; no kernel runs

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker
from torch.utils._pytree import tree_leaves

from experiments.throughput import composed_with, zipf_tokens
from tbptt.cli.config import Config
from tbptt.device import autocast
from tbptt.models.attention.choice import Attention
from tbptt.models.protocol import InitialMemory, detach
from tbptt.models.transformer_xl import TransformerXLConfig
from tbptt.models.vocabulary.clusters import Bounds, ClusteredIds
from tbptt.training.window import Window

WORDS = 267_735


def as_on_a_gpu(tokens: np.ndarray) -> ExitStack:
    """What a GPU does otherwise: dropout keeps a byte an entry, LayerNorm stays in float32, sizes are aligned, softmax
    tails of few tokens are in 16 bits too, and nothing is read of what was computed.

    And an index of words is as long as Zipf's law makes it, since there are no words.
    """

    def from_ids(ids: Tensor, bounds: Bounds, multiple: int = 1) -> ClusteredIds:
        shares = [((tokens >= low) & (tokens < high)).mean() for low, high in bounds]
        return ClusteredIds(ids, tuple(torch.arange(int(ids.numel() * share)) for share in shares))

    def layer_norm(x: Tensor, *arguments) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return normalize(x.float(), *arguments)

    normalize, patches = nn.functional.layer_norm, ExitStack()
    patches.enter_context(patch("torch.nn.functional.layer_norm", layer_norm))
    patches.enter_context(patch.dict("tbptt.models.alignment.ALIGNMENT", cpu=16))
    patches.enter_context(patch("tbptt.models.vocabulary.clusters.ClusteredIds.from_ids", from_ids))
    patches.enter_context(patch("tbptt.models.vocabulary.linear_cross_entropy.READ_AT_ONCE", set()))
    patches.enter_context(patch("tbptt.models.vocabulary.linear_cross_entropy.FEW_TOKENS_CPU", 0))
    drop = lambda x, rate: torch.native_dropout(x, rate, True)[0] if rate else x  # noqa: E731
    patches.enter_context(patch("tbptt.models.dropout.fast_dropout", drop))
    return patches


def peak(config: Config) -> dict[str, int]:
    """Bytes of each kind at the moment when most are held, with Adam's moments there and the memory full."""
    B, T = config.data.batch_size, config.model.tgt_len
    if isinstance(config.model, TransformerXLConfig):
        config.model.attention, config.model.initial_memory = Attention.fused, InitialMemory.zeros
    with as_on_a_gpu(zipf_tokens(100_000, WORDS)), FakeTensorMode(allow_non_fake_inputs=True):
        recompute = config.trainer.activation_checkpointing
        model = config.model.build(WORDS, recompute)
        window = Window(model, recompute=recompute)
        optimizer = config.optimizer.build(model)
        tokens_BT = torch.zeros(B, T, dtype=torch.int64)
        segments = [(tokens_BT, tokens_BT)] * config.trainer.window

        def step(state):
            optimizer.zero_grad()
            with autocast(torch.device("cpu"), config.trainer.precision):
                nll, state = window(segments, state)
            (nll / (B * T * len(segments))).backward()
            nn.utils.clip_grad_norm_(model.parameters(), config.trainer.clip)
            optimizer.step()
            return detach(state)

        state = step(model.initial_state(B))
        optimizer.zero_grad()
        tracker = MemTracker()
        tracker.track_external(model, optimizer, *tree_leaves(state))
        with tracker:
            step(state)
    (found,) = tracker.get_tracker_snapshot("peak").values()
    return {getattr(kind, "value", kind): size for kind, size in found.items()}


if __name__ == "__main__":
    words = sys.argv[1:] or ["model=txl_16l"]
    if words[0] in ("-h", "--help"):
        raise SystemExit(__doc__)
    found = peak(composed_with(["trainer.precision=bf16", *words]))
    print(" ".join(words))
    print(", ".join(f"{kind} {size / 2**30:.2f} GiB" for kind, size in found.items() if size > 2**20))

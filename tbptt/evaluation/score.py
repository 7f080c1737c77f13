"""Scoring a split: the mean loss over all of its targets, each counted once.

Shapes: B lanes, T tokens of a segment.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tbptt.data.config import Level
from tbptt.device import Precision, autocast
from tbptt.evaluation.config import BurnIn, EvalConfig
from tbptt.evaluation.lanes import plan_lanes, scored_segments
from tbptt.models.protocol import RecurrentModel

log = logging.getLogger(__name__)


@dataclass
class Score:
    """A split's loss, and the settings it is true for."""

    tokens: int  # targets scored
    loss: float  # nats per token
    seconds: float
    settings: dict[str, Any]  # tgt_len, mem_len, clamp_len, same_length, batch_size, burn_in

    def as_dict(self, level: Level) -> dict[str, Any]:
        return {
            "tokens": self.tokens,
            **loss_units(self.loss, level),
            "loss_base2": self.loss / math.log(2),
            "tokens_per_second": round(self.tokens / self.seconds, 1),
            "seconds": round(self.seconds, 3),
            "eval": self.settings,
        }


def loss_units(loss: float, level: Level) -> dict[str, float]:
    """The loss in nats, the perplexity, and for characters or bytes the bits of each."""
    ppl = math.exp(loss) if loss < 700 else math.inf
    return {"loss": loss, "ppl": ppl} | ({} if level is Level.word else {"bpc": loss / math.log(2)})


@torch.no_grad()
def score(
    model: RecurrentModel,
    stream: np.ndarray,
    config: EvalConfig,
    tgt_len: int,
    precision: Precision = Precision.fp32,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Score:
    """Score the n-1 targets of a stream of n tokens, with a state of its own that starts empty.

    `tgt_len` is the model's segment length, used unless `config` has one. The model's mode and context settings are
    restored afterwards. `progress` is told the steps done and to do.
    """
    device = next(model.parameters()).device
    stream = stream[: config.max_tokens + 1] if config.max_tokens else stream
    T = config.tgt_len or tgt_len
    n_segments = -(-(len(stream) - 1) // T)
    started = time.perf_counter()
    with _evaluating(model), model.with_context(**config.context()):
        exact = config.burn_in is BurnIn.exact
        reach = model.reach(T) if exact else 0
        if reach is None and config.batch_size > 1:
            log.info("This model's state reaches back without limit: exact evaluation reads the split in one lane")
        plan = plan_lanes(n_segments, 1 if reach is None else config.batch_size, (reach or 0) // T)
        state = model.initial_state(plan.lanes)
        total, count = torch.zeros((), dtype=torch.float64, device=device), 0
        for step, (tokens_BT, targets_BT, counts_BT) in enumerate(scored_segments(stream, T, plan), start=1):
            with autocast(device, precision):
                nll_BT, state = model(tokens_BT.to(device), targets_BT.to(device), state)
            total += torch.where(counts_BT.to(device), nll_BT, 0).sum(dtype=torch.float64)
            count += int(counts_BT.sum())
            progress(step, plan.run)
        context = {"mem_len": None, "clamp_len": None, "same_length": None} | model.context()
    loss = total.item() / count
    settings = {"tgt_len": T, **context, "batch_size": plan.lanes, "burn_in": config.burn_in.name}
    return Score(count, loss, time.perf_counter() - started, settings)


@contextmanager
def _evaluating(model: RecurrentModel) -> Iterator[None]:
    """Dropout off for a while."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def report_lines(params: int, scored: Score) -> list[str]:
    """What the seed system printed at the end of an evaluation."""
    rate = scored.tokens / scored.seconds
    units = scored.as_dict(Level.word)
    return [
        f"Number of parameters: {params:,}",
        f"Evaluated {scored.tokens:,} tokens in {scored.seconds:.1f} s ({rate:,.1f} tokens/s)",
        f"Loss (base 2): {units['loss_base2']:.4f}, Perplexity: {units['ppl']:.2f}",
    ]

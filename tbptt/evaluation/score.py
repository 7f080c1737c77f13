"""Scores a split: the mean loss over all of its targets, each counted once.

Shapes: B lanes of this rank, T tokens of a segment, N scored targets of a segment, D model size.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from tbptt.data.config import Level
from tbptt.device import Precision, autocast, send
from tbptt.errors import UserError
from tbptt.evaluation.config import EvalConfig
from tbptt.evaluation.lanes import scored_segments
from tbptt.evaluation.plan import choose_plan
from tbptt.evaluation.units import loss_units
from tbptt.launch.world import SINGLE_PROCESS, World
from tbptt.models.protocol import InitialMemory, RecurrentModel

log = logging.getLogger(__name__)


@dataclass
class Score:
    """The loss of a split, and the settings it was computed with."""

    tokens: int  # targets scored
    loss: float  # nats per token
    seconds: float
    settings: dict[str, Any]  # tgt_len, mem_len, clamp_len, same_length, batch_size, burn_in
    walk_len: int  # the segment length used; differs from tgt_len only where that does not change the loss
    losses_N: np.ndarray = field(default_factory=lambda: np.zeros(0))  # of all targets in order, if config.save_losses

    def as_dict(self, level: Level) -> dict[str, Any]:
        return {
            "tokens": self.tokens,
            **loss_units(self.loss, level),
            "loss_base2": self.loss / math.log(2),
            "tokens_per_second": round(self.tokens / self.seconds, 1),
            "seconds": round(self.seconds, 3),
            "eval": self.settings,
            "walk_len": self.walk_len,
        }


@torch.no_grad()
def score(
    model: RecurrentModel,
    stream: np.ndarray,
    config: EvalConfig,
    tgt_len: int,
    precision: Precision = Precision.fp32,
    progress: Callable[[int, int], None] = lambda done, total: None,
    world: World = SINGLE_PROCESS,
) -> Score:
    """Score the n-1 targets of a stream of n tokens, from the model's initial state.

    `tgt_len` is the model's segment length, used unless `config.tgt_len` is set. The model's mode and context settings
    are restored afterwards. `progress` is called with the number of steps done and the total. The ranks of `world`
    share the lanes; all return the same score.
    """
    device = next(model.parameters()).device
    stream = stream[: config.max_tokens + 1] if config.max_tokens else stream
    T = config.tgt_len or tgt_len
    started = time.perf_counter()
    with evaluating(model), model.with_context(**config.context()):
        if config.walk_len and not model.any_segments():
            raise UserError(
                f"eval.walk_len={config.walk_len} needs eval.same_length=true: otherwise the loss depends on the "
                "segment length, which is set by eval.tgt_len"
            )
        plan = choose_plan(model, len(stream) - 1, config, T, world)
        own_lanes = world.lanes(plan.lanes.lanes)
        state = model.for_inference(model.initial_state(own_lanes.stop - own_lanes.start))
        total, count = torch.zeros((), dtype=torch.float64, device=device), 0
        losses_N = torch.zeros(len(stream) - 1 if config.save_losses else 0, device=device)
        has_lanes = own_lanes.start < own_lanes.stop
        segments = scored_segments(stream, plan.tgt_len, plan.lanes, own_lanes) if has_lanes else ()
        for step, (tokens_BT, index_N, targets_N, positions_N) in enumerate(segments, start=1):
            with autocast(device, precision):
                h_BTD, state = model.hidden(model.send(tokens_BT, device), state)
                if len(index_N):  # none in a burn-in
                    h_ND = h_BTD.flatten(0, 1).index_select(0, send(index_N, device))
                    nll_N = model.softmax(h_ND, model.send(targets_N, device))
                    total, count = total + nll_N.sum(dtype=torch.float64), count + len(nll_N)
                    if config.save_losses:
                        losses_N[send(positions_N, device)] = nll_N.float()
            progress(step, plan.lanes.steps)
        total, count = world.sum(torch.stack((total, torch.tensor(count).to(total)))).tolist()
        context = {"mem_len": None, "clamp_len": None, "same_length": None} | reported_context(model)
        losses_N = world.sum(losses_N).cpu()  # every loss is nonzero on one rank only
    settings = {"tgt_len": T, **context, "batch_size": plan.lanes.lanes, "burn_in": config.burn_in.name}
    seconds = time.perf_counter() - started
    return Score(int(count), total / count, seconds, settings, plan.tgt_len, losses_N.numpy())


def reported_context(model: RecurrentModel) -> dict[str, Any]:
    """The model's context settings for results.json; `initial_memory` only if it is not empty."""
    default = {"initial_memory": InitialMemory.empty.name}
    return {key: value for key, value in model.context().items() if (key, value) not in default.items()}


@contextmanager
def evaluating(model: RecurrentModel) -> Iterator[None]:
    """Evaluation mode (no dropout) within the context."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def report_lines(params: int, scored: Score) -> list[str]:
    """The summary of an evaluation, in the format of the original seed system."""
    rate = scored.tokens / scored.seconds
    units = scored.as_dict(Level.word)
    return [
        f"Number of parameters: {params:,}",
        f"Evaluated {scored.tokens:,} tokens in {scored.seconds:.1f} s ({rate:,.1f} tokens/s)",
        f"Loss (base 2): {units['loss_base2']:.4f}, Perplexity: {units['ppl']:.2f}",
    ]

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
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tbptt.data.config import Level
from tbptt.data.document_lanes import find_documents
from tbptt.device import Precision, autocast, parameter_dtype, send
from tbptt.evaluation.config import BurnIn, EvalConfig
from tbptt.evaluation.lanes import LanePlan, scored_segments
from tbptt.evaluation.plan import choose_plan
from tbptt.evaluation.positions import PositionLoss, losses_by_position
from tbptt.evaluation.units import loss_units
from tbptt.launch.world import SINGLE_PROCESS, World
from tbptt.models.protocol import InitialMemory, RecurrentModel

log = logging.getLogger(__name__)
STEPS_TOGETHER = 16  # after so many, ranks wait for each other: one without lanes must not wait longer than gloo does


@dataclass
class Score:
    """The loss of a split, and the settings it was computed with."""

    tokens: int  # targets scored
    loss: float  # nats per token
    seconds: float
    settings: dict[str, Any]  # tgt_len, mem_len, clamp_len, same_length, batch_size, burn_in, piece_len
    walk_len: int  # the segment length used; differs from tgt_len only where that does not change the loss
    losses_N: np.ndarray = field(default_factory=lambda: np.zeros(0))  # of all targets, if save_losses or by_position
    by_position: list[PositionLoss] = field(default_factory=list)  # if config.by_position

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
    starts_D: np.ndarray | None = None,
) -> Score:
    """Score the n-1 targets of a stream of n tokens, from the model's initial state.

    `tgt_len` is the model's segment length, used unless `config.tgt_len` is set. The model's mode and context settings
    are restored afterwards. `progress` is called with the number of steps done and the total. The ranks of `world`
    share the lanes; all return the same score. At the tokens `starts_D`, where documents begin, the state is emptied.
    """
    device = next(model.parameters()).device
    stream = stream[: config.max_tokens + 1] if config.max_tokens else stream
    n_targets, T = len(stream) - 1, config.tgt_len or tgt_len
    started = time.perf_counter()
    with evaluating(model), model.with_context(**config.context()):
        config.check_walk_len(model.any_segments())
        plan = choose_plan(model, n_targets, config, T, world, starts_D)
        total, count = torch.zeros((), dtype=torch.float64, device=device), 0
        kept = n_targets if config.save_losses or config.by_position else 0
        losses_N = torch.zeros(kept, dtype=parameter_dtype(precision), device=device)
        steps = world.max(sum(map(plan.steps, plan.batches(world))))
        losses = _losses(model, stream, plan, precision, world, starts_D)
        for step in range(1, steps + 1):
            for nll_N, index_N in islice(losses, 1):  # a rank that has fewer steps has none
                total, count = total + nll_N.sum(dtype=torch.float64), count + len(nll_N)
                if kept:
                    losses_N[send(index_N, device)] = nll_N.to(losses_N.dtype)
            if step % STEPS_TOGETHER == 0:
                world.max(step)
            progress(step, steps)
        total, count = world.sum(torch.stack((total, torch.tensor(count).to(total)))).tolist()
        context = {"mem_len": None, "clamp_len": None, "same_length": None} | reported_context(model)
        losses_of_all = world.sum(losses_N).cpu().numpy()  # every loss is nonzero on one rank only
    burn_in = BurnIn.exact if config.exact or starts_D is not None else config.burn_in
    settings = {"tgt_len": T, **context, "batch_size": plan.batch_size, "burn_in": burn_in.name}
    settings |= {"piece_len": config.piece_len} if config.piece_len else {}
    settings |= {"reset_state": "document"} if starts_D is not None else {}
    by_position = losses_by_position(losses_of_all, _positions(plan, starts_D)) if config.by_position else []
    seconds = time.perf_counter() - started
    return Score(int(count), total / count, seconds, settings, plan.tgt_len, losses_of_all, by_position)


def _positions(plan: LanePlan, starts_D: np.ndarray | None) -> np.ndarray:
    """For each target (n_targets,) int64, how many targets precede it since the state was empty."""
    if starts_D is None:
        return plan.positions()
    return np.minimum(plan.positions(), find_documents(starts_D, np.arange(plan.n_targets))[1])


def _losses(
    model: RecurrentModel,
    stream: np.ndarray,
    plan: LanePlan,
    precision: Precision,
    world: World,
    starts_D: np.ndarray | None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield for every step on this rank the losses (N,) in nats and the indices (N,) of their targets in the split."""
    device = next(model.parameters()).device
    for lanes in plan.batches(world):
        state = model.for_inference(model.initial_state(len(lanes)))
        for segment in scored_segments(stream, plan, lanes, starts_D):
            nll_N = torch.zeros(0, device=device)  # of a burn-in
            starts = () if segment.starts_BT is None else (send(segment.starts_BT, device),)
            with autocast(device, precision):
                h_BTD, state = model.hidden(model.send(segment.tokens_BT, device), state, *starts)
                if len(segment.index_N):
                    h_ND = h_BTD.flatten(0, 1).index_select(0, send(segment.places_N, device))
                    nll_N = model.softmax(h_ND, model.send(segment.targets_N, device))
            yield nll_N, segment.index_N


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

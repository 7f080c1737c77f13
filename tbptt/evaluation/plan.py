"""Chooses the fastest number of lanes and, where the model does not see the cut, segment length. The loss stays.

More lanes run in parallel, but every lane except the first adds a burn-in. Longer segments need fewer steps, but every
query is compared with more keys. The choice minimises an estimate of the time.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from itertools import product

import numpy as np
import torch

from tbptt.evaluation.config import BurnIn, EvalConfig
from tbptt.evaluation.lanes import LanePlan, plan_documents, plan_lanes
from tbptt.launch.world import World
from tbptt.models.protocol import RecurrentModel

log = logging.getLogger(__name__)
LANE_CHOICES = [2**i for i in range(11)]
LENGTH_CHOICES = [2**i for i in range(5, 12)]
LANES_WITHOUT_BURN_IN = 16  # the default with burn_in=none, where the loss depends on the number of lanes
PIECES_AT_ONCE = 64  # or lanes of documents, at most by default, on a rank
STEP_OVERHEAD = {"cpu": 200, "cuda": 8_000}  # fixed time of a step, in tokens that it could compute
ACTIVATION_SHARE = 0.2  # of the device memory
STATE_SHARE = 0.3  # of it, for the states before and after a step
CACHE_BYTES = 2**24  # activations per CPU thread: larger steps are slower


def choose_plan(
    model: RecurrentModel,
    n_targets: int,
    config: EvalConfig,
    tgt_len: int,
    world: World,
    starts_D: np.ndarray | None = None,
) -> LanePlan:
    """The plan with the least estimated time among those that fit into memory; the same on all ranks.

    `tgt_len` is the requested segment length: another is chosen only where that does not change the loss. Settings in
    `config` take precedence. `starts_D` are the first tokens of documents, if they reset the state.
    """
    device, budget = next(model.parameters()).device, min(world.gather(memory_budget(world.device)))
    state_budget = min(world.gather(STATE_SHARE * total_memory(world.device)))
    in_one_lane = config.exact and not config.piece_len and starts_D is None and model.reach(tgt_len) is None
    if in_one_lane and (config.batch_size or 1) > 1:
        log.info("The state of this model depends on all tokens before it: exact evaluation uses one lane")
    fitting, smallest = [], None
    for plan in _possible_plans(model, n_targets, config, tgt_len, world, starts_D):
        lanes = -(-plan.batch_size // world.size)
        multiplications, activations = model.cost(plan.tgt_len)
        step = (lanes * plan.width + STEP_OVERHEAD[device.type]) * multiplications
        needed, states = 4 * activations * lanes * plan.width, 2 * 4 * model.state_size() * lanes
        if needed <= budget and states <= state_budget:
            steps = -(-plan.lanes // plan.batch_size) * -(-plan.longest // plan.tgt_len)
            fitting.append((steps * step, plan.batch_size, plan.tgt_len, plan))
        if smallest is None or needed + states < smallest[0]:
            smallest = needed + states, plan
    assert smallest is not None
    return min(fitting, key=lambda candidate: candidate[:3])[3] if fitting else smallest[1]


def _possible_plans(
    model: RecurrentModel,
    n_targets: int,
    config: EvalConfig,
    tgt_len: int,
    world: World,
    starts_D: np.ndarray | None,
) -> Iterator[LanePlan]:
    lengths, sees_cuts = [config.walk_len or tgt_len], not model.any_segments()
    if not sees_cuts and not config.walk_len and (config.exact or starts_D is not None):
        lengths += LENGTH_CHOICES
    for length, lanes in product(lengths, [config.batch_size] if config.batch_size else LANE_CHOICES):
        reach = model.reach(length)
        limit = lanes if config.batch_size else min(lanes, PIECES_AT_ONCE * world.size)
        if config.piece_len:
            yield LanePlan(n_targets, length, config.piece_len, separate=True, limit=limit)
        elif starts_D is not None:
            yield plan_documents(n_targets, length, limit, starts_D, sees_cuts)
        elif config.burn_in is BurnIn.none:
            yield plan_lanes(n_targets, length, config.batch_size or LANES_WITHOUT_BURN_IN, 0, separate=True)
        elif reach is None:
            yield plan_lanes(n_targets, length, 1, 0)
        else:
            yield plan_lanes(n_targets, length, lanes, reach)


def memory_budget(device: torch.device) -> float:
    """Bytes that the activations of a step may take.

    It depends on the total memory of the device, not on the free memory: that varies, and another plan changes the
    rounding.
    """
    budget = ACTIVATION_SHARE * total_memory(device)
    return budget if device.type == "cuda" else min(budget, CACHE_BYTES * torch.get_num_threads())


def total_memory(device: torch.device) -> int:
    """Bytes of the GPU, or of this machine."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")

"""The fastest way through a split: how many lanes, and under `same_length` how long segments. Never the number.

Every lane but the first also reads as far back as a state can reach, so more lanes are more work, but work that is done
at once; longer segments are fewer steps, but every query is compared with more keys. An estimate decides.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import torch

from tbptt.evaluation.config import BurnIn, EvalConfig
from tbptt.evaluation.lanes import LanePlan, plan_lanes
from tbptt.launch.world import World
from tbptt.models.protocol import RecurrentModel

log = logging.getLogger(__name__)
LANES = [2**i for i in range(11)]
LENGTHS = [2**i for i in range(5, 12)]
APPROXIMATE_LANES = 16  # with burn_in=none, where the number depends on them
OVERHEAD = {"cpu": 200, "cuda": 8_000}  # tokens that could be computed in the time that a step takes besides
FOR_RESULTS = 0.2  # of the memory
IN_CACHE = 2**24  # bytes of results for every thread of a processor, whose larger steps are slower


@dataclass(frozen=True)
class EvalPlan:
    """Segments of `tgt_len` tokens, in lanes as `lanes` says."""

    tgt_len: int
    lanes: LanePlan


def choose_plan(model: RecurrentModel, n_targets: int, config: EvalConfig, tgt_len: int, world: World) -> EvalPlan:
    """The plan of least estimated time among those that fit into memory, the same on all ranks.

    `tgt_len` is the length asked for: another is taken only where it changes nothing. The settings of `config` win.
    """
    device, most = next(model.parameters()).device, min(world.gather(memory_budget(world.device)))
    if config.burn_in is BurnIn.exact and model.reach(tgt_len) is None and (config.batch_size or 1) > 1:
        log.info("This model's state reaches back without limit: exact evaluation reads the split in one lane")
    fitting, smallest = [], None
    for plan in _possible_plans(model, n_targets, config, tgt_len):
        lanes = -(-plan.lanes.lanes // world.size)
        multiplications, numbers = model.cost(plan.tgt_len)
        step = (lanes * plan.tgt_len + OVERHEAD[device.type]) * multiplications
        needed = 4 * numbers * lanes * plan.tgt_len
        if needed <= most:
            fitting.append((plan.lanes.run * step, plan.lanes.lanes, plan.tgt_len, plan))
        if smallest is None or needed < smallest[0]:
            smallest = needed, plan
    assert smallest is not None
    return min(fitting, key=lambda found: found[:3])[3] if fitting else smallest[1]


def _possible_plans(model: RecurrentModel, n_targets: int, config: EvalConfig, tgt_len: int) -> Iterator[EvalPlan]:
    lengths = [config.walk_len or tgt_len]
    if model.context().get("same_length") and not config.walk_len and config.burn_in is BurnIn.exact:
        lengths += LENGTHS
    for length, lanes in product(lengths, [config.batch_size] if config.batch_size else LANES):
        n_segments, reach = -(-n_targets // length), model.reach(length)
        if config.burn_in is BurnIn.none:
            yield EvalPlan(length, plan_lanes(n_segments, config.batch_size or APPROXIMATE_LANES, 0))
        elif reach is None:
            yield EvalPlan(length, plan_lanes(n_segments, 1, 0))
        else:
            yield EvalPlan(length, plan_lanes(n_segments, lanes, reach // length))


def memory_budget(device: torch.device) -> float:
    """Bytes that the results of a step may take.

    It follows from all memory of the device: what is free changes, and with another plan the rounding does too.
    """
    if device.type == "cuda":
        return FOR_RESULTS * torch.cuda.get_device_properties(device).total_memory
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min(FOR_RESULTS * memory, IN_CACHE * torch.get_num_threads())

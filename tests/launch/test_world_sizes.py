"""Real processes over gloo: their number is a choice of speed, never of mathematics."""

from dataclasses import replace
from functools import cache

import pytest
import torch

from experiments.world_sizes import MODELS, STEPS, WINDOWS, Job, difference, in_world
from tbptt.device import Precision
from tbptt.launch.world import World
from tbptt.models.protocol import map_state
from tbptt.training.config import Reduce
from tests.helpers import assert_close

pytestmark = pytest.mark.slow
CASES = [(name, Precision.fp64, size) for name in MODELS for size in (None, 1)]
N = len(CASES)


def half(model: str) -> int:
    """Updates, of which twice as many go beyond an epoch's end."""
    return STEPS // WINDOWS.get(model, 1) + 2


def jobs(halves: int, starts=None) -> list[Job]:
    return [Job(*case, halves * half(case[0]), start) for case, start in zip(CASES, starts or [None] * N)]


@cache
def one():
    """One process: whole runs, and their first halves."""
    results = in_world(1, jobs(2) + jobs(1))
    return results[:N], results[N:]


@cache
def four():
    """Four processes, two of them with one lane more: whole runs, halves, and what follows one process's halves."""
    results = in_world(4, jobs(2) + jobs(1) + jobs(1, one()[1]))
    return results[:N], results[N : 2 * N], results[2 * N :]


@cache
def two():
    """Two processes: whole runs, what follows four processes' halves, and one update with gradients sent in bf16."""
    one_update = [replace(job, steps=1, reduce=Reduce.bf16) for job in jobs(1)]
    results = in_world(2, jobs(2) + jobs(1, four()[1]) + one_update)
    return results[:N], results[N : 2 * N], results[2 * N :]


def assert_equal_to_rounding(results, expected):
    for result, reference in zip(results, expected, strict=True):
        last = reference | {"losses": reference["losses"][-len(result["losses"]) :]}
        assert all(value < 1e-12 for value in difference(result, last).values())


@pytest.mark.parametrize("world", [two, four])
def test_losses_gradients_and_weights_are_those_of_one_process(world):
    assert_equal_to_rounding(world()[0], one()[0])


def test_a_checkpoint_continues_on_another_number_of_processes():
    assert_equal_to_rounding(in_world(1, jobs(1, four()[1])), one()[0])  # from 4 to 1
    assert_equal_to_rounding(two()[1], one()[0])  # from 4 to 2
    assert_equal_to_rounding(four()[2], one()[0])  # from 1 to 4


def test_gradients_sent_in_bf16_lose_no_more_than_its_rounding():
    alone = in_world(1, [replace(job, steps=1) for job in jobs(1)])
    for result, expected in zip(two()[2], alone, strict=True):
        found = difference(result, expected)
        assert found["losses"] < 1e-12 and 1e-5 < found["gradients"] < 2**-7  # 8 bits of mantissa, twice rounded


def test_a_checkpoint_holds_the_state_of_every_lane():
    for alone, shared in zip(one()[1], four()[1], strict=True):
        states = [result["trainer"]["lane_states"] for result in (alone, shared)]
        map_state(lambda x, y: assert_close(x, y, 1e-12) or x, *states)


def test_on_as_many_processes_it_continues_bit_for_bit():
    for result, expected in zip(in_world(4, jobs(1, four()[1])), four()[0], strict=True):
        assert torch.equal(result["losses"], expected["losses"][-len(result["losses"]) :])
        assert all(torch.equal(result["weights"][key], value) for key, value in expected["weights"].items())


@pytest.mark.parametrize("lanes", [1, 5, 6, 64])
def test_lanes_are_shared_out_whole_and_evenly(lanes):
    for size in (1, 2, 3, 4, 7):
        parts = [World(rank, size).lanes(lanes) for rank in range(size)]
        assert [lane for part in parts for lane in range(lanes)[part]] == list(range(lanes))
        counts = [part.stop - part.start for part in parts]
        assert max(counts) - min(counts) <= 1

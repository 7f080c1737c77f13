"""Work that is recorded and launched again as one: CUDA graphs of a whole update.

A GPU is done with most kernels of an update sooner than the host can launch the next. A recording is launched at once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from tbptt.launch.world import World
from tbptt.models.protocol import State, map_state

log = logging.getLogger(__name__)
T = TypeVar("T")
MULTIPLE = 256  # of words of a cluster: the fewer sizes, the fewer recordings
MOST = 64  # recordings; a rarer size runs as it is
Shapes = tuple[torch.Size, ...]


Compute = Callable[[Any, State], tuple[Tensor, State]]


class Replayed:
    """`compute(words, states) -> (results, states)`, recorded once for all shapes it is called with.

    It must depend on tensors alone, always the same ones besides its arguments, and wait for nothing. The first call in
    new shapes runs as it is, which loads what a recording must find loaded. The second is recorded, unless the states
    change their shapes: a memory that still fills. From then on the results and states are where the recording leaves
    them, and good until the next call.
    """

    def __init__(
        self,
        compute: Compute,
        record: Callable[[Callable[[], T]], tuple[T, Callable[[], None]]],
    ):
        """`record` runs its argument to record it; returns its result, and what replays it."""
        self.compute, self.record = compute, record
        self.met: dict[tuple[Shapes, Shapes], bool] = {}  # the shapes met, and whether they may be recorded
        self.recordings: dict[tuple[Shapes, Shapes], tuple[Tensor, Callable[[], None]]] = {}
        self.inputs: dict[Shapes, Any] = {}  # where recordings find words and states of these shapes

    def __call__(self, words: Any, states: State) -> tuple[Tensor, State]:
        key = shapes_of(words), shapes_of(states)
        if not self.met.get(key) or (key not in self.recordings and len(self.recordings) == MOST):
            results, new_states = self.compute(words, states)
            self.met[key] = shapes_of(new_states) == key[1]
            return results, new_states
        words, states = (self._put(shapes, values) for shapes, values in zip(key, (words, states)))
        if key not in self.recordings:
            self.recordings[key] = self.record(lambda: self._in_place(words, states))
        results, replay = self.recordings[key]
        replay()
        return results, states

    def _in_place(self, words: Any, states: State) -> Tensor:
        results, new_states = self.compute(words, states)
        map_state(Tensor.copy_, states, new_states)
        return results

    def _put(self, shapes: Shapes, values: Any) -> Any:
        if shapes not in self.inputs:
            self.inputs[shapes] = map_state(torch.clone, values)
        return map_state(Tensor.copy_, self.inputs[shapes], values)


def shapes_of(values: Any) -> Shapes:
    found: list[torch.Size] = []
    map_state(lambda x: found.append(x.shape) or x, values)
    return tuple(found)


def with_cuda_graphs(compute: Compute, optimizer: torch.optim.Optimizer, world: World) -> Replayed | None:
    """`compute` replayed, or None where that cannot be done."""
    if world.device.type != "cuda" or world.size > 1:
        log.warning("trainer.cuda_graphs=true has no effect: it needs a GPU, and one process")
        return None
    return Replayed(compute, CudaGraphs(optimizer))


class CudaGraphs:
    """Records on the current GPU. All recordings work in the same memory, one at a time."""

    def __init__(self, optimizer: torch.optim.Optimizer):
        self.optimizer, self.pool = optimizer, torch.cuda.graph_pool_handle()

    def __call__(self, work: Callable[[], T]) -> tuple[T, Callable[[], None]]:
        graph = torch.cuda.CUDAGraph()
        for group in self.optimizer.param_groups:  # torch's way to ask for an optimizer that can be recorded
            group["capturable"] = True
        try:
            with torch.cuda.graph(graph, pool=self.pool):
                result = work()
        finally:
            for group in self.optimizer.param_groups:
                group["capturable"] = False
        return result, graph.replay

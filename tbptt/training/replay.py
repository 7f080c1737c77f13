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
Signature = tuple[tuple[torch.Size, torch.dtype], ...]  # of tensors
Compute = Callable[[Any, State], tuple[Tensor, State]]


class GraphReplay:
    """Calls `compute(words, states) -> (results, states)`, recorded once for all kinds of tensors it is called with.

    It must depend on tensors alone, always the same ones besides its arguments, and wait for nothing. The first call
    with new shapes runs as it is, which loads what a recording must find loaded. The second is recorded, unless the
    states change their shapes: a memory that still fills. From then on the results and states are where the recording
    leaves them, and good until the next call.
    """

    def __init__(self, record: Callable[[Callable[[], Tensor]], tuple[Tensor, Callable[[], None]]]):
        """`record` runs its argument to record it; returns its result, and what replays it."""
        self.record = record
        self.forget()

    def forget(self) -> None:
        """Record anew: tensors that recordings use have been replaced."""
        self.met: dict[tuple[Signature, Signature], bool] = {}  # and whether they may be recorded
        self.recordings: dict[tuple[Signature, Signature], tuple[Tensor, Callable[[], None]]] = {}
        self.inputs: dict[Signature, Any] = {}  # where recordings find words and states

    def __call__(self, compute: Compute, words: Any, states: State) -> tuple[Tensor, State]:
        key = signature_of(words), signature_of(states)
        if not self.met.get(key) or (key not in self.recordings and len(self.recordings) == MOST):
            results, new_states = compute(words, states)
            self.met[key] = signature_of(new_states) == key[1]
            return results, new_states
        words, states = (self._put(kinds, values) for kinds, values in zip(key, (words, states)))

        def in_place() -> Tensor:
            results, new_states = compute(words, states)
            map_state(Tensor.copy_, states, new_states)
            return results

        if key not in self.recordings:
            self.recordings[key] = self.record(in_place)
        results, replay = self.recordings[key]
        replay()
        return results, states

    def _put(self, kinds: Signature, values: Any) -> Any:
        if kinds not in self.inputs:
            self.inputs[kinds] = map_state(torch.clone, values)
        return map_state(Tensor.copy_, self.inputs[kinds], values)


def signature_of(values: Any) -> Signature:
    found: list[tuple[torch.Size, torch.dtype]] = []

    def note(x: Tensor) -> Tensor:
        found.append((x.shape, x.dtype))
        return x

    map_state(note, values)
    return tuple(found)


def cuda_graphs(optimizer: torch.optim.Optimizer, world: World) -> GraphReplay | None:
    """None where they cannot be used."""
    if world.device.type != "cuda" or world.size > 1:
        log.warning("trainer.cuda_graphs=true has no effect: it needs a GPU, and one process")
        return None
    return GraphReplay(CudaGraphs(optimizer))


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

"""CUDA graphs of a whole update: captured once for each set of tensor shapes, then replayed.

Most kernels of an update finish before the host can launch the next. A replay launches all of them at once.
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
PADDING_MULTIPLE = 256  # words per vocabulary cluster are padded to a multiple: fewer shapes, fewer graphs
MAX_GRAPHS = 64  # further shapes run eagerly
Signature = tuple[tuple[torch.Size, torch.dtype], ...]  # shapes and dtypes of a pytree's tensors
Compute = Callable[[Any, State], tuple[Tensor, State]]


class GraphReplay:
    """Calls `compute(batches, states) -> (results, states)`, with one graph for each signature of the arguments.

    `compute` must read only its arguments and tensors that stay the same objects, and must not synchronise with the
    device. The first call with a new signature runs eagerly, which loads the kernels and libraries that a capture
    needs. The second call captures a graph, unless the states changed shape (a memory that is still filling). A
    replay returns results and states in the graph's static memory: they are valid until the next call.
    """

    def __init__(self, capture: Callable[[Callable[[], Tensor]], tuple[Tensor, Callable[[], None]]]):
        """`capture` captures a call of its argument and returns the call's result and a function that replays it."""
        self.capture = capture
        self.reset()

    def reset(self) -> None:
        """Drop all graphs: tensors that they use have been replaced."""
        self.capturable: dict[tuple[Signature, Signature], bool] = {}  # for every signature seen
        self.graphs: dict[tuple[Signature, Signature], tuple[Tensor, Callable[[], None]]] = {}
        self.static_inputs: dict[Signature, Any] = {}  # from which graphs read batches and states

    def __call__(self, compute: Compute, batches: Any, states: State) -> tuple[Tensor, State]:
        key = signature_of(batches), signature_of(states)
        if not self.capturable.get(key) or (key not in self.graphs and len(self.graphs) == MAX_GRAPHS):
            results, new_states = compute(batches, states)
            self.capturable[key] = signature_of(new_states) == key[1]
            return results, new_states
        batches, states = (self._copy_in(signature, values) for signature, values in zip(key, (batches, states)))

        def compute_in_place() -> Tensor:
            results, new_states = compute(batches, states)
            map_state(Tensor.copy_, states, new_states)
            return results

        if key not in self.graphs:
            self.graphs[key] = self.capture(compute_in_place)
        results, replay = self.graphs[key]
        replay()
        return results, states

    def _copy_in(self, signature: Signature, values: Any) -> Any:
        if signature not in self.static_inputs:
            self.static_inputs[signature] = map_state(torch.clone, values)
        return map_state(Tensor.copy_, self.static_inputs[signature], values)


def signature_of(values: Any) -> Signature:
    signature: list[tuple[torch.Size, torch.dtype]] = []

    def append(x: Tensor) -> Tensor:
        signature.append((x.shape, x.dtype))
        return x

    map_state(append, values)
    return tuple(signature)


def make_graph_replay(optimizer: torch.optim.Optimizer, world: World) -> GraphReplay | None:
    """None, with a warning, where CUDA graphs cannot be used."""
    if world.device.type != "cuda" or world.size > 1:
        log.warning("trainer.cuda_graphs=true has no effect: it needs a GPU and a single process")
        return None
    return GraphReplay(CudaGraphCapture(optimizer))


class CudaGraphCapture:
    """Captures graphs on the current GPU. They share one memory pool, since no two of them run at the same time."""

    def __init__(self, optimizer: torch.optim.Optimizer):
        self.optimizer, self.pool = optimizer, torch.cuda.graph_pool_handle()

    def __call__(self, work: Callable[[], T]) -> tuple[T, Callable[[], None]]:
        graph = torch.cuda.CUDAGraph()
        for group in self.optimizer.param_groups:  # torch requires it of an optimizer whose step is captured
            group["capturable"] = True
        try:
            with torch.cuda.graph(graph, pool=self.pool):
                result = work()
        finally:
            for group in self.optimizer.param_groups:
                group["capturable"] = False
        return result, graph.replay

"""The ranks of a run and their collectives. A run of one process is a world of size 1."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from tbptt.models.protocol import State, map_state

CPU = torch.device("cpu")
T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """Rank `rank` of `size`. All methods but `lanes` are collective: every rank must call them, in the same order."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default=CPU)

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which writes files and output."""
        return self.rank == 0

    def lanes(self, batch_size: int, rank: int | None = None) -> slice:
        """The contiguous range of the `batch_size` global lanes that a rank runs; sizes differ by at most one."""
        rank = self.rank if rank is None else rank
        return slice(batch_size * rank // self.size, batch_size * (rank + 1) // self.size)

    def sum(self, x: Tensor) -> Tensor:
        """All-reduce `x` in place; the result is bitwise the same on all ranks."""
        if self.size > 1:
            dist.all_reduce(x)
        return x

    def max(self, value: int) -> int:
        """The maximum over all ranks."""
        if self.size == 1:
            return value
        tensor = torch.tensor(value)
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return int(tensor)

    def broadcast(self, value: T) -> T:
        """The value of rank 0, on all ranks."""
        values = [value]
        if self.size > 1:
            dist.broadcast_object_list(values, src=0, device=CPU)
        return values[0]

    def gather(self, value: T) -> list[T]:
        """The values of all ranks in order, on all ranks. For small objects: they are pickled."""
        values: list[Any] = [value]
        if self.size > 1:
            values = [None] * self.size
            dist.all_gather_object(values, value)
        return values

    def gather_lanes(self, state: State, batch_size: int) -> State:
        """On rank 0, the state of all `batch_size` global lanes, on the CPU; on others, that of their own lanes."""

        def gather(x: Tensor) -> Tensor:
            x = x.detach().cpu().contiguous()
            if self.size == 1:
                return x
            all_lanes = x.new_empty(batch_size, *x.shape[1:])
            if not x.numel():  # an empty memory: nothing to send
                return all_lanes
            if not self.is_main:
                dist.send(x, 0)
                return x
            all_lanes[self.lanes(batch_size, 0)] = x
            for rank in range(1, self.size):
                dist.recv(all_lanes[self.lanes(batch_size, rank)], rank)  # contiguous, since axis 0 is the lane
            return all_lanes

        return map_state(gather, state)


SINGLE_PROCESS = World()

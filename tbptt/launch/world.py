"""The processes of one run, and how they speak to each other. A run of one process is a world of size 1."""

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
    """Rank `rank` of `size`. Its methods are collective: every rank calls them, in the same order."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default=CPU)

    @property
    def is_main(self) -> bool:
        """Rank 0: the one that writes and talks."""
        return self.rank == 0

    def lanes(self, batch_size: int, rank: int | None = None) -> slice:
        """The lanes of a rank among `batch_size` global ones: neighbours, as many as for the others or one more."""
        rank = self.rank if rank is None else rank
        return slice(batch_size * rank // self.size, batch_size * (rank + 1) // self.size)

    def sum(self, x: Tensor) -> Tensor:
        """The sum over all ranks, the same bits on each, in place."""
        if self.size > 1:
            dist.all_reduce(x)
        return x

    def highest(self, value: int) -> int:
        """The highest value of any rank."""
        if self.size == 1:
            return value
        tensor = torch.tensor(value)
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return int(tensor)

    def broadcast(self, value: T) -> T:
        """What rank 0 has, on all ranks."""
        box = [value]
        if self.size > 1:
            dist.broadcast_object_list(box, src=0, device=CPU)
        return box[0]

    def gather(self, value: T) -> list[T]:
        """What each rank has, in order, on all ranks. For small things."""
        values: list[Any] = [value]
        if self.size > 1:
            values = [None] * self.size
            dist.all_gather_object(values, value)
        return values

    def gather_lanes(self, state: State, batch_size: int) -> State:
        """On rank 0, the state of all `batch_size` global lanes in memory of the CPU; the others keep their own."""

        def gather(x: Tensor) -> Tensor:
            x = x.detach().cpu().contiguous()
            if self.size == 1:
                return x
            all_lanes = x.new_empty(batch_size, *x.shape[1:])
            if not x.numel():  # a memory of length 0: nothing to send
                return all_lanes
            if not self.is_main:
                dist.send(x, 0)
                return x
            all_lanes[self.lanes(batch_size, 0)] = x
            for rank in range(1, self.size):
                dist.recv(all_lanes[self.lanes(batch_size, rank)], rank)  # lanes are axis 0: a contiguous part
            return all_lanes

        return map_state(gather, state)


SINGLE_PROCESS = World()

"""The sum of the gradients of all ranks, sent while the backward pass is still going on (DistributedDataParallel)."""

import inspect
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from tbptt.launch.world import World
from tbptt.models.protocol import RecurrentModel
from tbptt.training.config import Reduce

KNOWN = inspect.signature(DistributedDataParallel).parameters
SYNC_BUFFERS = "forward_sync_buffers" if "forward_sync_buffers" in KNOWN else "broadcast_buffers"  # new name, old name


def parallel(model: RecurrentModel, world: World, reduce: Reduce) -> DistributedDataParallel:
    """The model, whose backward pass leaves the sum of all ranks' gradients on each. Weights become rank 0's."""
    settings: dict[str, Any] = {"gradient_as_bucket_view": True, SYNC_BUFFERS: False}
    shared = DistributedDataParallel(model, **settings)
    shared.register_comm_hook(None, _sum_of(reduce))
    # DDP sorts its buckets by the order in which the first gradients came, and the buckets decide the rounding: before
    # its first step a resumed run must have sorted them like the run it continues.
    token_BT = torch.zeros(1, 1, dtype=torch.int64, device=world.device)
    with torch.random.fork_rng([world.device] if world.device.type == "cuda" else []):
        nll_BT, _ = shared(token_BT, token_BT, model.initial_state(1))
        nll_BT.sum().backward()
    model.zero_grad()
    return shared


def _sum_of(reduce: Reduce) -> Callable[[None, dist.GradBucket], torch.futures.Future[Tensor]]:
    """A hook that adds and does not divide: the loss is divided by the tokens of all ranks already."""

    def add(_: None, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
        gradients = bucket.buffer()
        sent = gradients.bfloat16() if reduce is Reduce.bf16 else gradients
        future = dist.all_reduce(sent, async_op=True).get_future()
        return future.then(lambda done: gradients.copy_(done.value()[0]))

    return add

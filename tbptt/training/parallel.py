"""Data parallelism: DistributedDataParallel sums the gradients of all ranks during the backward pass."""

import inspect
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from tbptt.launch.world import World
from tbptt.training.config import Reduce
from tbptt.training.window import Window

DDP_PARAMETERS = inspect.signature(DistributedDataParallel).parameters
# torch renamed this argument.
SYNC_BUFFERS = "forward_sync_buffers" if "forward_sync_buffers" in DDP_PARAMETERS else "broadcast_buffers"


def data_parallel(window: Window, world: World, reduce: Reduce) -> DistributedDataParallel:
    """Wrap `window` so that its backward pass sums the gradients of all ranks. Weights are broadcast from rank 0."""
    settings: dict[str, Any] = {"gradient_as_bucket_view": True, SYNC_BUFFERS: False}
    ddp_window = DistributedDataParallel(window, **settings)
    ddp_window.register_comm_hook(None, _sum_hook(reduce))
    # DDP rebuilds its buckets in the order in which the gradients of the first backward pass arrive, and the buckets
    # determine the rounding. This pass gives a resumed run the same buckets as the run it continues.
    token_BT = torch.zeros(1, 1, dtype=torch.int64, device=world.device)
    with torch.random.fork_rng([world.device] if world.device.type == "cuda" else []):
        nll, _ = ddp_window([(token_BT, token_BT)], window.model.initial_state(1))
        nll.backward()
    window.zero_grad()
    return ddp_window


def _sum_hook(reduce: Reduce) -> Callable[[None, dist.GradBucket], torch.futures.Future[Tensor]]:
    """A communication hook that sums, not averages: the loss is already divided by the tokens of all ranks."""

    def add(_: None, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
        gradients = bucket.buffer()
        sent = gradients.bfloat16() if reduce is Reduce.bf16 else gradients
        future = dist.all_reduce(sent, async_op=True).get_future()
        return future.then(lambda done: gradients.copy_(done.value()[0]))

    return add

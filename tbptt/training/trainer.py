"""One update of truncated backpropagation through time, and all that must be kept to make the next one the same.

Shapes: B lanes of this rank, T tokens of the segment. One process has all lanes of the global batch.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tbptt.data.lanes import Lanes
from tbptt.device import HostCopy, autocast, loss_scaler
from tbptt.errors import UserError
from tbptt.launch.world import SINGLE_PROCESS, World
from tbptt.models.protocol import RecurrentModel, State, join_lanes, map_state, slice_lanes
from tbptt.training.config import ResetState, TrainerConfig
from tbptt.training.parallel import parallel
from tbptt.training.replay import MULTIPLE, cuda_graphs
from tbptt.training.schedules import Schedule


@dataclass
class Update:
    """What one update saw. Loss and gradient are still being computed when it is made: to read them is to wait."""

    lr: float
    tokens: int
    results: HostCopy

    @property
    def loss(self) -> float:
        """Nats per token, mean over all tokens of the global segment."""
        return self.results.read()[0]

    @property
    def grad_norm(self) -> float:
        """Before clipping."""
        return self.results.read()[1]


class Trainer:
    """Walks the lanes segment by segment; `step` counts updates and alone says where in the data we are."""

    def __init__(
        self,
        model: RecurrentModel,
        lanes: Lanes,
        optimizer: torch.optim.Optimizer,
        schedule: Schedule,
        config: TrainerConfig,
        world: World = SINGLE_PROCESS,
    ):
        """`lanes` are all lanes of the global batch; this rank takes its part of them."""
        self.model, self.optimizer, self.schedule, self.config, self.world = model, optimizer, schedule, config, world
        self.batch_size, self.mine, self.device = lanes.batch_size, world.lanes(lanes.batch_size), world.device
        self.lanes = lanes.part(self.mine)
        self.scaler = loss_scaler(self.device, config.precision)
        # A tensor, so that an update that was recorded reads the newest; torch's kernels take it in float32 on a GPU.
        lr_dtype = torch.float64 if self.device.type == "cpu" else torch.float32
        self.lr = torch.zeros((), dtype=lr_dtype, device=self.device)
        n, size = self.lanes.batch_size, config.micro_batch or self.lanes.batch_size
        self.micro_batches = [slice(i, min(i + size, n)) for i in range(0, n, size)]
        self.shared = parallel(model, world, config.reduce) if world.size > 1 else None
        self.replayed = cuda_graphs(optimizer, world) if config.cuda_graphs else None
        if world.rank:  # dropout draws other masks for other lanes
            torch.manual_seed(_seed(torch.initial_seed(), 0, world.rank))
        self.step = self.tokens = self.nonfinite = 0
        self.last: HostCopy | None = None  # loss and gradient norm of the newest update
        self.emptied = False  # the states, after the newest update had begun with others
        self.states = self._empty_states()

    @property
    def epoch(self) -> int:
        return self.step // len(self.lanes)

    def update(self) -> Update:
        """Run the next segment of every lane forward and backward, and change the weights once.

        The host asks the device for all of it and waits for none of it; then it looks at the update before.
        """
        segment = self.step % len(self.lanes)
        if segment == 0 and self.config.reset_state is ResetState.epoch:
            self.states = self._empty_states()
        lr = self.schedule.lr(self.step)
        self.lr.fill_(lr)
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr
        tokens_BT, targets_BT = self.lanes.segment(segment)
        words = [(self._send(tokens_BT[lanes]), self._send(targets_BT[lanes])) for lanes in self.micro_batches]
        if self.replayed:
            results, self.states = self.replayed(self._compute, words, self.states)
        else:
            results, self.states = self._compute(words, self.states)
        self._check_previous_update()
        self.step += 1
        n_tokens = self._global_tokens(targets_BT)
        self.tokens += n_tokens
        self.last = HostCopy(results)
        return Update(lr, n_tokens, self.last)

    def _send(self, ids_BT: Tensor) -> Any:
        return self.model.send(ids_BT, self.device, MULTIPLE if self.replayed else 1)

    def _global_tokens(self, ids_BT: Any) -> int:
        return self.batch_size * ids_BT.shape[1]

    def _compute(self, words: list[tuple[Any, Any]], states: list[State]) -> tuple[Tensor, list[State]]:
        """Loss and gradient norm (2,), and the states after the segment.

        Nothing here waits for the device, and all that changes from update to update is a tensor: it can be recorded.
        """
        if not self.model.training:
            self.model.train()
        self.optimizer.zero_grad()
        # Accumulation splits lanes: each micro-batch carries the state of its own lanes, and its loss is divided by the
        # tokens of the GLOBAL segment, so that the gradients add up to those of one large batch.
        # The gradients of the ranks are added in the backward pass of the last one.
        loss, new_states = torch.zeros((), dtype=torch.float64, device=self.device), []
        for i, (tokens_BT, targets_BT) in enumerate(words):
            is_last = i == len(words) - 1
            with nullcontext() if is_last or self.shared is None else self.shared.no_sync():
                with autocast(self.device, self.config.precision):
                    nll_BT, state = (self.shared or self.model)(tokens_BT, targets_BT, states[i])
                part = nll_BT.sum() / self._global_tokens(targets_BT)
                self.scaler.scale(part).backward()
            loss += part.detach()
            new_states.append(state)
        self.world.sum(loss)
        self.scaler.unscale_(self.optimizer)
        gradients = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        results = torch.stack((loss, norm.double()))
        self._step(norm, skip=~results.isfinite().all())
        self.scaler.update()
        return results, new_states

    def _step(self, norm: Tensor, skip: Tensor) -> None:
        """Change the weights, by a gradient of at most `clip`; nothing where `skip` is true."""
        optimizer: Any = self.optimizer
        optimizer.found_inf = skip.float()  # an attribute that torch's fused optimizers ask for, as is the next
        if self.config.clip:
            if norm.dtype is torch.float64:  # the optimizer takes a factor in float32
                nn.utils.clip_grads_with_norm_(self.model.parameters(), self.config.clip, norm)
            else:  # the gradient is divided by it where it is read anyway
                optimizer.grad_scale = ((norm + 1e-6) / self.config.clip).clamp(min=1)
        optimizer.step()

    def _check_previous_update(self) -> None:
        """Too many updates in a row that are not finite end the run; the states after such a loss may carry its poison.

        The next update has begun with them when the loss is looked at. Its loss may not be finite either, which says
        nothing new: they are emptied once.
        """
        if self.last is None:
            return
        loss, norm = self.last.read()
        self.nonfinite = 0 if math.isfinite(loss) and math.isfinite(norm) else self.nonfinite + 1
        if self.nonfinite >= self.config.max_nonfinite:
            raise UserError(
                f"step {self.step}: {self.nonfinite} updates in a row without a finite loss and gradient (loss {loss}, "
                f"gradient norm {norm}); try a lower optimizer.lr, a longer scheduler.warmup_steps or "
                "trainer.precision=fp32"
            )
        self.emptied = not math.isfinite(loss) and not self.emptied
        if self.emptied:
            self.states = self._empty_states()

    def _empty_states(self) -> list[State]:
        return [self.model.initial_state(lanes.stop - lanes.start) for lanes in self.micro_batches]

    def state_dict(self) -> dict[str, Any]:
        """Everything but the weights: the state of every global lane, whatever ranks and micro-batches computed it.

        Collective; what it returns is whole on rank 0 only.
        """
        rng = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            rng["cuda"] = torch.cuda.get_rng_state(self.device)
        return {
            "step": self.step,
            "tokens": self.tokens,
            "nonfinite": self.nonfinite,
            "last": self.last and self.last.read(),
            "emptied": self.emptied,
            "lane_states": self.world.gather_lanes(join_lanes(self.states), self.batch_size),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "rng": self.world.gather(rng),
        }

    def take_optimizer(self, saved: dict[str, Any]) -> None:
        """Go on with another run's optimizer and its step; the settings of ours stay."""
        self.step = saved["step"]
        self._load_optimizer(saved)

    def _load_optimizer(self, saved: dict[str, Any]) -> None:
        """Its state; its settings are those of this run."""
        if self.replayed:
            self.replayed.forget()
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": saved["state"]})

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        self.step, self.tokens, self.nonfinite = saved["step"], saved["tokens"], saved["nonfinite"]
        self.last, self.emptied = saved["last"] and HostCopy(torch.tensor(saved["last"])), saved["emptied"]
        lane_states = map_state(lambda x: x[self.mine].to(self.device), saved["lane_states"])
        self.states = [map_state(torch.clone, slice_lanes(lane_states, lanes)) for lanes in self.micro_batches]
        self._load_optimizer(saved["optimizer"])
        self.schedule.load_state_dict(saved["schedule"])
        self.scaler.load_state_dict(saved["scaler"])
        if len(saved["rng"]) != self.world.size:  # there is nothing to continue: each rank starts a sequence of its own
            torch.manual_seed(_seed(torch.initial_seed(), self.step, self.world.rank))
            return
        rng = saved["rng"][self.world.rank]
        torch.set_rng_state(rng["cpu"])
        if self.device.type == "cuda" and "cuda" in rng:
            torch.cuda.set_rng_state(rng["cuda"], self.device)


def _seed(seed: int, step: int, rank: int) -> int:
    """A seed that is another for every argument."""
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1)[0])

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
from torch import nn

from tbptt.data.lanes import Lanes
from tbptt.device import autocast, loss_scaler
from tbptt.errors import UserError
from tbptt.launch.world import ALONE, World
from tbptt.models.protocol import RecurrentModel, State, join_lanes, map_state, slice_lanes
from tbptt.training.config import ResetState, TrainerConfig
from tbptt.training.parallel import parallel
from tbptt.training.schedules import Schedule


@dataclass
class Update:
    """What one update saw."""

    loss: float  # nats per token, mean over all tokens of the global segment
    grad_norm: float  # before clipping
    lr: float
    tokens: int


class Trainer:
    """Walks the lanes segment by segment; `step` counts updates and alone says where in the data we are."""

    def __init__(
        self,
        model: RecurrentModel,
        lanes: Lanes,
        optimizer: torch.optim.Optimizer,
        schedule: Schedule,
        config: TrainerConfig,
        world: World = ALONE,
    ):
        """`lanes` are all lanes of the global batch; this rank takes its part of them."""
        self.model, self.optimizer, self.schedule, self.config, self.world = model, optimizer, schedule, config, world
        self.batch_size, self.mine, self.device = lanes.batch_size, world.lanes(lanes.batch_size), world.device
        self.lanes = lanes.part(self.mine)
        self.scaler = loss_scaler(self.device, config.precision)
        n, size = self.lanes.batch_size, config.micro_batch or self.lanes.batch_size
        self.micro_batches = [slice(i, min(i + size, n)) for i in range(0, n, size)]
        self.shared = parallel(model, world, config.reduce) if world.size > 1 else None
        if world.rank:  # dropout draws other masks for other lanes
            torch.manual_seed(_seed(torch.initial_seed(), 0, world.rank))
        self.step = self.tokens = self.nonfinite = 0
        self.states = self._empty_states()

    @property
    def epoch(self) -> int:
        return self.step // len(self.lanes)

    def update(self) -> Update:
        """Run the next segment of every lane forward and backward, and change the weights once."""
        segment = self.step % len(self.lanes)
        if segment == 0 and self.config.reset_state is ResetState.epoch:
            self.states = self._empty_states()
        tokens_BT, targets_BT = (x.to(self.device, non_blocking=True) for x in self.lanes.segment(segment))
        lr = self.schedule.lr(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.model.train()
        self.optimizer.zero_grad()
        # Accumulation splits lanes: each micro-batch carries the state of its own lanes, and its loss is divided by the
        # tokens of the GLOBAL segment, so that the gradients add up to those of one large batch.
        # The gradients of the ranks are added in the backward pass of the last one.
        n_tokens = self.batch_size * targets_BT.shape[1]
        loss = torch.zeros((), dtype=torch.float64, device=self.device)
        for i, lanes in enumerate(self.micro_batches):
            is_last = i == len(self.micro_batches) - 1
            with nullcontext() if is_last or self.shared is None else self.shared.no_sync():
                with autocast(self.device, self.config.precision):
                    model = self.shared or self.model
                    nll_BT, self.states[i] = model(tokens_BT[lanes], targets_BT[lanes], self.states[i])
                part = nll_BT.sum() / n_tokens
                self.scaler.scale(part).backward()
            loss += part.detach()
        self.world.sum(loss)
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip or math.inf)
        update = Update(loss.item(), norm.item(), lr, n_tokens)
        self._apply(update)
        self.step += 1
        self.tokens += update.tokens
        return update

    def _apply(self, update: Update) -> None:
        """Let the optimizer step, unless loss or gradient is not finite; too often in a row ends the run."""
        if math.isfinite(update.loss) and math.isfinite(update.grad_norm):
            self.nonfinite = 0
            self.scaler.step(self.optimizer)
        else:
            self.nonfinite += 1
            if not math.isfinite(update.loss):
                self.states = self._empty_states()  # they may carry the same poison
            if self.nonfinite >= self.config.max_nonfinite:
                raise UserError(
                    f"step {self.step + 1}: {self.nonfinite} updates in a row without a finite loss and gradient (loss "
                    f"{update.loss}, gradient norm {update.grad_norm}); try a lower optimizer.lr, a longer "
                    "scheduler.warmup_steps or trainer.precision=fp32"
                )
        self.scaler.update()

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
            "lane_states": self.world.gather_lanes(join_lanes(self.states), self.batch_size),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "rng": self.world.gather(rng),
        }

    def take_optimizer(self, saved: dict[str, Any]) -> None:
        """Go on with another run's optimizer and its step; the settings of ours stay."""
        self.step = saved["step"]
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": saved["state"]})

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        self.step, self.tokens, self.nonfinite = saved["step"], saved["tokens"], saved["nonfinite"]
        lane_states = map_state(lambda x: x[self.mine].to(self.device), saved["lane_states"])
        self.states = [map_state(torch.clone, slice_lanes(lane_states, lanes)) for lanes in self.micro_batches]
        self.optimizer.load_state_dict(saved["optimizer"])
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

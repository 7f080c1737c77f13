"""One update of truncated backpropagation through time, and all that must be kept to make the next one the same.

Shapes: B lanes of the global batch, T tokens of the segment.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from tbptt.data.lanes import Lanes
from tbptt.device import autocast, loss_scaler
from tbptt.errors import UserError
from tbptt.models.protocol import RecurrentModel, State, join_lanes, map_state, slice_lanes
from tbptt.training.config import ResetState, TrainerConfig
from tbptt.training.schedules import Schedule

CPU = torch.device("cpu")


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
        device: torch.device = CPU,
    ):
        self.model, self.lanes, self.optimizer, self.schedule = model, lanes, optimizer, schedule
        self.config, self.device = config, device
        self.scaler = loss_scaler(device, config.precision)
        size = config.micro_batch or lanes.batch_size
        self.micro_batches = [slice(i, i + size) for i in range(0, lanes.batch_size, size)]
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
        loss = torch.zeros((), dtype=torch.float64, device=self.device)
        for i, lanes in enumerate(self.micro_batches):
            with autocast(self.device, self.config.precision):
                nll_BT, self.states[i] = self.model(tokens_BT[lanes], targets_BT[lanes], self.states[i])
            part = nll_BT.sum() / targets_BT.numel()
            self.scaler.scale(part).backward()
            loss += part.detach()
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip or math.inf)
        update = Update(loss.item(), norm.item(), lr, targets_BT.numel())
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
        """Everything but the weights: the state of every global lane, whatever micro-batches it was computed in."""
        rng = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            rng["cuda"] = torch.cuda.get_rng_state(self.device)
        return {
            "step": self.step,
            "tokens": self.tokens,
            "nonfinite": self.nonfinite,
            "lane_states": map_state(lambda x: x.cpu(), join_lanes(self.states)),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "rng": rng,
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        self.step, self.tokens, self.nonfinite = saved["step"], saved["tokens"], saved["nonfinite"]
        lane_states = map_state(lambda x: x.to(self.device), saved["lane_states"])
        self.states = [map_state(torch.clone, slice_lanes(lane_states, lanes)) for lanes in self.micro_batches]
        self.optimizer.load_state_dict(saved["optimizer"])
        self.schedule.load_state_dict(saved["schedule"])
        self.scaler.load_state_dict(saved["scaler"])
        torch.set_rng_state(saved["rng"]["cpu"])
        if self.device.type == "cuda" and "cuda" in saved["rng"]:
            torch.cuda.set_rng_state(saved["rng"]["cuda"], self.device)

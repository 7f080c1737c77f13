"""One update of truncated backpropagation through time, and the state that a resumed run needs to repeat the next.

An update spans a window of segments: `trainer.window` of them, fewer at the end of an epoch.

Shapes: B lanes of this rank (of a single process: all lanes of the global batch), T tokens of a segment.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tbptt.data.document_lanes import DocumentLanes
from tbptt.data.lanes import Lanes
from tbptt.device import HostCopy, autocast, loss_scaler, send
from tbptt.errors import UserError
from tbptt.launch.world import SINGLE_PROCESS, World
from tbptt.models.protocol import RecurrentModel, State, detach, join_lanes, map_state, slice_lanes
from tbptt.training.config import ResetState, TrainerConfig
from tbptt.training.gradient_norm import total_norm
from tbptt.training.meter import Meter
from tbptt.training.optimizers import load_state, saved_state
from tbptt.training.parallel import data_parallel
from tbptt.training.replay import PADDING_MULTIPLE, make_graph_replay
from tbptt.training.schedules import Schedule
from tbptt.training.window import Segment, Window


@dataclass
class Update:
    """The results of one update. The device may still be computing them: reading `loss` or `grad_norm` waits for it."""

    lr: float
    tokens: int
    results: HostCopy

    @property
    def loss(self) -> float:
        """Nats per token, mean over all tokens of the window, in all lanes of the global batch."""
        return self.results.read()[0]

    @property
    def grad_norm(self) -> float:
        """Before clipping."""
        return self.results.read()[1]


class Trainer:
    """Trains on the lanes window by window. `step` counts updates and alone determines the position in the data."""

    def __init__(
        self,
        model: RecurrentModel,
        lanes: Lanes | DocumentLanes,
        optimizer: torch.optim.Optimizer,
        schedule: Schedule,
        config: TrainerConfig,
        world: World = SINGLE_PROCESS,
    ):
        """`lanes` are all lanes of the global batch, of which this rank takes its share.

        They must show documents where these reset the state.
        """
        self.model, self.optimizer, self.schedule, self.config, self.world = model, optimizer, schedule, config, world
        self.parameters = list(model.parameters())
        self.batch_size, self.own_lanes, self.device = lanes.batch_size, world.lanes(lanes.batch_size), world.device
        self.lanes = lanes.part(self.own_lanes)
        self.meter = Meter(model, lanes.tgt_len, config.precision, world)
        self.scaler = loss_scaler(self.device, config.precision)
        # A tensor, so that a captured update reads the current rate; torch's fused GPU kernels need it in float32.
        lr_dtype = torch.float64 if self.device.type == "cpu" else torch.float32
        self.lr = torch.zeros((), dtype=lr_dtype, device=self.device)
        n, size = self.lanes.batch_size, config.micro_batch or self.lanes.batch_size
        self.micro_batches = [slice(i, min(i + size, n)) for i in range(0, n, size)]
        window = Window(model, config.reset_state is ResetState.segment, config.activation_checkpointing)
        self.ddp_window = data_parallel(window, world, config.reduce) if world.size > 1 else None
        self.window: nn.Module = self.ddp_window or window
        self.graph_replay = make_graph_replay(optimizer, world) if config.cuda_graphs else None
        if world.rank:  # every rank draws its own dropout masks
            torch.manual_seed(_seed(torch.initial_seed(), 0, world.rank))
        self.step = self.tokens = self.nonfinite = 0
        self.last_results: HostCopy | None = None  # loss and gradient norm of the newest update
        self.emptied = False  # whether the states were emptied after the newest update had started
        self.states = self._empty_states()

    @property
    def updates_per_epoch(self) -> int:
        return -(-len(self.lanes) // self.config.window)

    @property
    def epoch(self) -> int:
        return self.step // self.updates_per_epoch

    def update(self) -> Update:
        """Run the next window of every lane forward and backward, and step the optimizer once.

        The host queues all work on the device without waiting for it; then it checks the results of the update before.
        """
        epoch, index = divmod(self.step, self.updates_per_epoch)
        if index == 0 and self.config.reset_state in (ResetState.epoch, ResetState.document):
            self.states = self._empty_states()
        lr = self.schedule.lr(self.step)
        self.lr.fill_(lr)
        for group in self.optimizer.param_groups:
            group["lr"] = lr if group.get("rate_on_host") else self.lr
        first = index * self.config.window
        window = range(first, min(first + self.config.window, len(self.lanes)))
        with self.meter.spent("data"):
            segments = [self._segment(number, epoch) for number in window]
            batches = [[self._send(segment, lanes) for segment in segments] for lanes in self.micro_batches]
        with self.meter.spent("compute"):
            if self.graph_replay:
                results, self.states = self.graph_replay(self._compute, batches, self.states)
            else:
                results, self.states = self._compute(batches, self.states)
        with self.meter.spent("wait"):
            self._check_previous_update()
        self.step += 1
        n_tokens = self._global_tokens(segments)
        self.tokens += n_tokens
        self.last_results = HostCopy(results)
        return Update(lr, n_tokens, self.last_results)

    def _segment(self, number: int, epoch: int) -> Segment:
        """A segment of this rank's lanes, with the starts of documents only where they reset the state."""
        segment: Segment = self.lanes.segment(number, epoch)
        return segment if self.config.reset_state is ResetState.document else segment[:2]

    def _send(self, segment: Segment, lanes: slice) -> Segment:
        """The segment of a micro-batch on the device."""
        tokens_BT, targets_BT, *starts_BT = (x[lanes] for x in segment)
        multiple = PADDING_MULTIPLE if self.graph_replay else 1
        ids = (self.model.send(ids_BT, self.device, multiple) for ids_BT in (tokens_BT, targets_BT))
        return (*ids, *(send(x, self.device) for x in starts_BT))

    def _global_tokens(self, segments: list[Segment]) -> int:
        return self.batch_size * sum(targets_BT.shape[1] for _, targets_BT, *_ in segments)

    def _compute(self, batches: list[list[Segment]], states: list[State]) -> tuple[Tensor, list[State]]:
        """Loss and gradient norm (2,) float64, and the states after the window.

        It can be captured in a CUDA graph: nothing waits for the device, and all that varies between updates is in
        tensors.
        """
        if not self.model.training:
            self.model.train()
        self.optimizer.zero_grad()
        # Accumulation splits lanes: each micro-batch carries the state of its own lanes, and its loss is divided by the
        # tokens of the GLOBAL window, so that the gradients add up to those of one large batch.
        # DDP sums the gradients of the ranks in the backward pass of the last micro-batch.
        loss, new_states = torch.zeros((), dtype=torch.float64, device=self.device), []
        for i, segments in enumerate(batches):
            is_last = i == len(batches) - 1
            with nullcontext() if is_last or self.ddp_window is None else self.ddp_window.no_sync():
                with autocast(self.device, self.config.precision):
                    nll, state = self.window(segments, states[i])
                part = nll / self._global_tokens(segments)
                self.scaler.scale(part).backward()
            loss += part.detach()
            new_states.append(detach(state))
        self.world.sum(loss)
        self.scaler.unscale_(self.optimizer)
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        norm = total_norm(gradients)
        results = torch.stack((loss, norm.double()))
        self._optimizer_step(norm, skip=~results.isfinite().all())
        self.scaler.update()
        return results, new_states

    def _optimizer_step(self, norm: Tensor, skip: Tensor) -> None:
        """Step with the gradient clipped to norm `clip`. If `skip` is true, weights and optimizer state stay."""
        optimizer: Any = self.optimizer
        optimizer.found_inf = skip.float()  # torch's fused optimizers read this attribute, and grad_scale
        if self.config.clip:
            if norm.dtype is torch.float64:  # grad_scale must be float32
                nn.utils.clip_grads_with_norm_(self.parameters, self.config.clip, norm)
            else:  # the fused kernel divides the gradient by it
                optimizer.grad_scale = ((norm + 1e-6) / self.config.clip).clamp(min=1)
        optimizer.step()

    def _check_previous_update(self) -> None:
        """Empty the states after a loss that is not finite. UserError after `max_nonfinite` such updates in a row.

        The states after a non-finite loss may hold NaN, and the next update has already started from them when the
        loss is read. If that update's loss is not finite either, the states are not emptied a second time.
        """
        if self.last_results is None:
            return
        loss, norm = self.last_results.read()
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
        """All training state but the weights, with the states of all global lanes in order.

        Collective. Only rank 0 gets the complete result.
        """
        rng = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            rng["cuda"] = torch.cuda.get_rng_state(self.device)
        return {
            "step": self.step,
            "tokens": self.tokens,
            "nonfinite": self.nonfinite,
            "last": self.last_results and self.last_results.read(),
            "emptied": self.emptied,
            "lane_states": self.world.gather_lanes(join_lanes(self.states), self.batch_size),
            "optimizer": {"state": saved_state(self.optimizer, self.model)},
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "rng": self.world.gather(rng),
        }

    def load_optimizer(self, saved: dict[str, Any]) -> None:
        """Continue with the step and optimizer state of another run, under this run's optimizer settings."""
        self.step = saved["step"]
        self._load_optimizer_state(saved)

    def _load_optimizer_state(self, saved: dict[str, Any]) -> None:
        """Load the optimizer's state, but not its settings: those of this run apply."""
        if self.graph_replay:
            self.graph_replay.reset()
        load_state(self.optimizer, self.model, saved["state"])

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        self.step, self.tokens, self.nonfinite = saved["step"], saved["tokens"], saved["nonfinite"]
        self.last_results = saved["last"] and HostCopy(torch.tensor(saved["last"]))
        self.emptied = saved["emptied"]
        lane_states = map_state(lambda x: x[self.own_lanes].to(self.device), saved["lane_states"])
        self.states = [map_state(torch.clone, slice_lanes(lane_states, lanes)) for lanes in self.micro_batches]
        self._load_optimizer_state(saved["optimizer"])
        self.schedule.load_state_dict(saved["schedule"])
        self.scaler.load_state_dict(saved["scaler"])
        if len(saved["rng"]) != self.world.size:  # another world size: every rank starts a new random sequence
            torch.manual_seed(_seed(torch.initial_seed(), self.step, self.world.rank))
            return
        rng = saved["rng"][self.world.rank]
        torch.set_rng_state(rng["cpu"])
        if self.device.type == "cuda" and "cuda" in rng:
            torch.cuda.set_rng_state(rng["cuda"], self.device)


def _seed(seed: int, step: int, rank: int) -> int:
    """A seed derived from all three arguments."""
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1)[0])

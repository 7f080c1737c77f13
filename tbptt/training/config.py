"""The settings of the `trainer` group."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

from tbptt.device import Precision
from tbptt.errors import UserError


class Reduce(Enum):
    exact = "exact"
    bf16 = "bf16"


class ResetState(Enum):
    epoch = "epoch"  # at the start of every epoch
    never = "never"
    document = "document"  # at the start of every document, wherever it lies in a segment, and of every epoch
    segment = "segment"  # at the start of every segment: ordinary training, without carried state


@dataclass
class TrainerConfig:
    max_steps: int = 200_000  # updates
    window: int = 1  # segments of an update, through all of which its gradient reaches back
    devices: int | None = None  # processes on this machine, one per GPU. None: every visible GPU, one process on a CPU
    micro_batch: int | None = None  # lanes a process runs at once. None: all of its lanes
    reduce: Reduce = Reduce.exact  # precision of the gradient all-reduce; bf16 halves the traffic
    clip: float = 0.25  # largest global gradient norm; 0: no clipping
    precision: Precision = Precision.fp32  # bf16, fp16: of matrix products; weights stay float32
    device: str = "auto"  # auto, cpu, cuda, cuda:1, ...
    reset_state: ResetState = ResetState.epoch  # when the state is reset to empty
    activation_checkpointing: bool = False  # recompute activations in the backward pass: less memory, more arithmetic
    compile: bool = False  # torch.compile the model's blocks
    cuda_graphs: bool = False  # capture a whole update as a CUDA graph and replay it
    max_nonfinite: int = 20  # stop the run after this many updates in a row with a non-finite loss or gradient
    log_every: int = 100  # steps between lines of metrics.jsonl
    eval_every: int = 4_000  # steps between validations
    eval_tokens: int | None = None  # validate on this many tokens of the split; None: on all of them
    save_every: int = 1_000  # steps between checkpoints
    keep: int = 2  # newest checkpoints kept, besides the best

    RESULT_NEUTRAL: ClassVar = (  # settings that change losses by rounding and dropout masks at most
        "devices", "micro_batch", "device", "activation_checkpointing", "compile", "cuda_graphs", "log_every",
        "save_every", "keep",
    )  # fmt: skip

    def check(self) -> None:
        for key in ("devices", "micro_batch"):
            if (getattr(self, key) or 1) < 1 or getattr(self, key) == 0:
                raise UserError(f"trainer.{key}={getattr(self, key)} must be 1 or more, or null")
        for key in ("max_steps", "window", "log_every", "eval_every", "save_every", "keep", "max_nonfinite"):
            if getattr(self, key) < 1:
                raise UserError(f"trainer.{key}={getattr(self, key)} must be 1 or more")
        if not 0 <= self.clip < math.inf:
            raise UserError(f"trainer.clip={self.clip} must be a positive norm, or 0 for no clipping")
        if self.cuda_graphs and self.activation_checkpointing:
            raise UserError(
                "trainer.cuda_graphs=true cannot capture trainer.activation_checkpointing=true, which reads the state "
                "of the GPU's random number generator: set one of them to false"
            )
        if self.eval_tokens is not None and self.eval_tokens < 1:
            raise UserError(f"trainer.eval_tokens={self.eval_tokens} must be 1 or more, or null for the whole split")

"""What the `eval` group configures. Settings left at null are the model's own."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from tbptt.errors import UserError
from tbptt.evaluation.dynamic_config import DynamicConfig
from tbptt.models.protocol import InitialMemory


class Split(Enum):
    train = "train"
    valid = "valid"
    test = "test"


class BurnIn(Enum):
    exact = "exact"
    none = "none"


@dataclass
class EvalConfig:
    split: Split = Split.test
    tgt_len: int | None = None  # tokens per segment
    mem_len: int | None = None  # positions remembered per layer
    clamp_len: int | None = None  # distances beyond this count as this; -1: no limit
    same_length: bool | None = None  # every query sees exactly mem_len keys, itself included
    initial_memory: InitialMemory | None = None  # empty, or zeros: mem_len vectors of zeros, which are attended to
    batch_size: int | None = None  # lanes the split is cut into, at most. None: as many as are fastest
    walk_len: int | None = None  # tokens run at once under same_length, which change no number. None: the fastest
    burn_in: BurnIn = BurnIn.exact  # exact: lanes first read what their state can reach, and give the one-lane number
    max_tokens: int | None = None  # score only the first so many tokens
    save_losses: str | None = None  # a file for the loss of every token; a relative path is one in the run directory
    dynamic: DynamicConfig = field(default_factory=DynamicConfig)  # besides, score with weights that follow the text

    def context(self) -> dict[str, Any]:
        """The context settings that replace the model's own for this evaluation."""
        chosen: dict[str, Any] = {"mem_len": self.mem_len, "clamp_len": self.clamp_len, "same_length": self.same_length}
        chosen |= {"initial_memory": self.initial_memory and self.initial_memory.name}
        return {key: value for key, value in chosen.items() if value is not None}

    def check(self) -> None:
        for key in ("tgt_len", "batch_size", "walk_len", "max_tokens"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise UserError(f"eval.{key}={value} must be 1 or more")
        if self.mem_len is not None and self.mem_len < 0:
            raise UserError(f"eval.mem_len={self.mem_len} must be 0 or more")
        self.dynamic.check()

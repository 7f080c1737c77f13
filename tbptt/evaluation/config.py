"""The settings of the `eval` group. For settings left at null, those of the model apply."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any, ClassVar

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


class EvalReset(Enum):
    document = "document"  # at the start of every document
    never = "never"


@dataclass
class EvalConfig:
    split: Split = Split.test  # the split to score
    tgt_len: int | None = None  # tokens per segment
    mem_len: int | None = None  # positions of memory per layer
    clamp_len: int | None = None  # larger distances are clamped to this; -1: no limit
    same_length: bool | None = None  # every query attends to exactly mem_len keys, its own included
    initial_memory: InitialMemory | None = None  # empty, or zeros: mem_len zero vectors, which are attended to
    batch_size: int | None = None  # maximum number of lanes. None: the fastest number
    walk_len: int | None = None  # segment length under same_length; does not change the loss. None: the fastest
    burn_in: BurnIn = BurnIn.exact  # exact: lanes first read all that their state depends on; equals one lane
    max_tokens: int | None = None  # score only this many tokens, from the start
    reset_state: EvalReset | None = None  # when the state is reset to empty. None: at documents if training did so
    piece_len: int | None = None  # cut the split into pieces of so many tokens, each scored from the empty state
    by_position: bool = False  # also the mean loss by position since the state was empty: positions.csv, positions.png
    save_losses: str | None = None  # file for the loss of every token; relative to the run directory
    dynamic: DynamicConfig = field(default_factory=DynamicConfig)  # additional dynamic evaluation

    RESULT_NEUTRAL: ClassVar[tuple[str, ...]] = ("by_position",)  # it adds files to the run directory

    @property
    def exact(self) -> bool:
        """Whether the loss does not depend on the number of lanes."""
        return self.burn_in is BurnIn.exact or self.piece_len is not None

    def context(self) -> dict[str, Any]:
        """The context settings that replace those of the model in this evaluation."""
        chosen: dict[str, Any] = {"mem_len": self.mem_len, "clamp_len": self.clamp_len, "same_length": self.same_length}
        chosen |= {"initial_memory": self.initial_memory and self.initial_memory.name}
        return {key: value for key, value in chosen.items() if value is not None}

    def check_walk_len(self, any_segments: bool) -> None:
        """`any_segments`: whether the loss is the same in segments of any length."""
        if self.walk_len and not any_segments:
            raise UserError(
                f"eval.walk_len={self.walk_len} needs eval.same_length=true: otherwise the loss depends on the "
                "segment length, which is set by eval.tgt_len"
            )

    def check(self) -> None:
        for key in ("tgt_len", "batch_size", "walk_len", "max_tokens", "piece_len"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise UserError(f"eval.{key}={value} must be 1 or more")
        if self.mem_len is not None and self.mem_len < 0:
            raise UserError(f"eval.mem_len={self.mem_len} must be 0 or more")
        self.dynamic.check()

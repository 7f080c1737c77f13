"""What every mixer is: the part of a layer that mixes positions, with a state that is an argument and a return value.

Shapes: B lanes, T tokens of the segment, D model size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tbptt.device import Precision, matmul_dtype
from tbptt.errors import UserError
from tbptt.models.mixers.kernels import Kernels, Recurrence, fused, pick_kernels
from tbptt.models.protocol import State, numel


@dataclass
class MixerConfig:
    """Base of every mixer's configuration, one field of the stack's."""

    NAME: ClassVar[str]  # in model.layers, and of the field model.NAME
    CONTEXT: ClassVar[tuple[str, ...]] = ()  # how far it looks back: settings that an evaluation may change
    RESULT_NEUTRAL: ClassVar[tuple[str, ...]] = ()  # settings that change results by rounding only

    def check(self, d_model: int) -> None:
        """UserError for settings that cannot work."""

    def check_eval(self, settings: dict[str, Any]) -> None:
        """UserError for settings of `CONTEXT` (eval.mem_len, ...) that it cannot be evaluated with."""

    def any_segments(self, settings: dict[str, Any]) -> bool:
        """As of the mixer (below), under these settings of `CONTEXT`."""
        return True

    def check_precision(self, precision: Precision, device: torch.device) -> None:
        """UserError if it cannot run in this precision on this device."""

    def build(self, d_model: int, layer: int, n_layer: int) -> Mixer:
        """The mixer of layer number `layer` of `n_layer`, from 0, its parameters as initialised."""
        raise NotImplementedError

    def kernel_sizes(self) -> tuple[int, int] | None:
        """Sizes of keys and values, if there are kernels for the mixer's recurrence (kernels.py)."""
        return None

    def check_at_least(self, least: int, *keys: str) -> None:
        """A key that is None takes its value from another one."""
        for key in keys:
            if (value := getattr(self, key)) is not None and value < least:
                raise UserError(f"model.{self.NAME}.{key}={value} must be {least} or more")

    def check_divides(self, part: str, whole: str) -> None:
        n, total = getattr(self, part), getattr(self, whole)
        if n is not None and total is not None and total % n:
            raise UserError(f"model.{self.NAME}.{whole}={total} must be a multiple of model.{self.NAME}.{part}={n}")


class Mixer(nn.Module):
    """(B, T, D) and a state -> (B, T, D) and the new state, attached, never the old one overwritten.

    States are float32 (float64 where the weights are) in every precision.
    """

    COMPILES: ClassVar[bool] = True  # False: torch.compile would unroll a loop over tokens, or refuses

    chunk_len = 1  # more in mixers that compute in chunks
    kernels = Kernels.plain  # the stack sets this choice, and the sizes of its configuration
    kernel_sizes: tuple[int, int] | None = None

    def initial_state(self, batch_size: int) -> State:
        """Of `batch_size` lanes before their first token: a dict of tensors, lanes on axis 0."""
        raise NotImplementedError

    def forward(self, x_BTD: Tensor, state: State, since_BT: Tensor | None = None) -> tuple[Tensor, State]:
        """`since_BT` are the tokens since the start of each token's document (documents.py); None: no starts here."""
        raise NotImplementedError

    def reset_parameters(self) -> None:
        """Initialise as the reference does."""
        raise NotImplementedError

    def reach(self, tgt_len: int) -> int | None:
        """As of a whole model; a recurrent mixer reaches back without limit."""
        return None

    def kernels_for(self, x: Tensor) -> Kernels:
        """Plain or fused, for inputs like `x` under the current autocast."""
        if self.kernel_sizes is None:
            return Kernels.plain
        return pick_kernels(self.kernels, self.kernel_sizes, x.device, matmul_dtype(x))

    def recurrence(self, plain: Recurrence, x: Tensor) -> Recurrence:
        """`plain`, a function of channel_decay.py, scalar_decay.py or delta_rule.py, or kernels in its place."""
        return fused(plain, matmul_dtype(x)) if self.kernels_for(x) is Kernels.fused else plain

    def chunk(self, x_BTD: Tensor) -> int:
        """Tokens that a plain form computes at once: one where there is no other, as in generation."""
        return 1 if x_BTD.shape[1] == 1 else self.chunk_len

    def any_segments(self) -> bool:
        """Whether it does not see where a stream is cut into segments."""
        return True

    def cost(self, tgt_len: int) -> tuple[float, float]:
        """As of a whole model, but without what its parameters multiply."""
        return 0, 0

    def state_size(self) -> int:
        """As of a whole model."""
        return numel(self.initial_state(1))

    def for_inference(self, state: State) -> State:
        """As of a whole model: the form of the state that is fastest while the weights do not change."""
        return state

    def context(self) -> dict[str, Any]:
        """Its values of the configuration's `CONTEXT`."""
        return {}

    def set_context(self, **settings: Any) -> None:
        """Change settings of `context()`. UserError for an invalid value."""

    def notes(self) -> list[str]:
        """Log messages about choices that depend on the device and dtype of the weights."""
        return []

    def state_zeros(self, batch_size: int, *shape: int) -> Tensor:
        weight = next(self.parameters())
        return weight.new_zeros(batch_size, *shape, dtype=state_dtype(weight))


def state_dtype(weight: Tensor) -> torch.dtype:
    return torch.promote_types(weight.dtype, torch.float32)

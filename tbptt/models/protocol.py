"""What every model of the framework is: a module that takes a state and returns the next one.

A state is a pytree (tuples, lists and dicts, nested as the model likes) of tensors whose axis 0 is the LANE.
That one rule lets the functions below slice, join and move the state of any model without knowing what it is made of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tbptt.device import Precision, send
from tbptt.errors import UserError

State = Any  # a pytree of tensors, lanes on axis 0


class InitialMemory(Enum):
    """What a model with a memory remembers before its first token."""

    empty = "empty"  # nothing
    zeros = "zeros"  # mem_len vectors of zeros, which are attended to: what Hugging Face's Transformer-XL does


@dataclass
class ModelConfig:
    """Base of every model's configuration (a structured config of the `model` group)."""

    name: str
    tgt_len: int  # tokens per segment: one forward and backward pass

    RESULT_NEUTRAL: ClassVar[tuple[str, ...]] = ()  # settings of speed and memory, which move losses by rounding alone

    def check(self, vocab_size: int | None) -> None:
        """Raise UserError for settings that cannot work; `vocab_size` is None while it is not known."""
        if self.tgt_len < 1:
            raise UserError(f"model.tgt_len={self.tgt_len} must be at least 1 token per segment")

    def check_eval(self, settings: dict[str, Any]) -> None:
        """Raise UserError for context settings (eval.mem_len, ...) that this model cannot be evaluated with."""
        if settings:
            some = ", ".join(f"eval.{key}={value}" for key, value in settings.items())
            raise UserError(f"{some} has no meaning for model {self.name}, whose state has no length to set")

    def check_precision(self, precision: Precision, device: torch.device) -> None:
        """Raise UserError for a precision in which this model cannot run on that device."""

    def build(self, vocab_size: int, activation_checkpointing: bool = False) -> RecurrentModel:
        raise NotImplementedError


class RecurrentModel(nn.Module):
    """The state protocol. B lanes, T tokens of one segment, D model size.

    A model defines `initial_state`, `reach` and `hidden`, and has a `softmax` that turns hidden states into losses.
    """

    softmax: Any  # an AdaptiveSoftmax, or a module that is called and has `log_probs` like it

    def initial_state(self, batch_size: int) -> State:
        """The state of `batch_size` lanes before their first token: empty, unless a setting of the model says more."""
        raise NotImplementedError

    def for_inference(self, state: State) -> State:
        """The same state in the form that goes on fastest while no weight changes. `hidden` takes both forms."""
        return state

    def send(self, ids: Any, device: torch.device, multiple: int = 1) -> Any:
        """Word ids of the host on their way to the device, with what the model wants to know of them beforehand.

        The result is a pytree of tensors, and the model takes it wherever it takes ids. Sizes of tensors that follow
        from the ids are rounded up to a `multiple`, so that they vary less.
        """
        return map_state(lambda x: send(x, device), ids)

    def hidden(self, tokens_BT: Tensor, state: State) -> tuple[Tensor, State]:
        """The last layer's output (B, T, D), after dropout, and the new state, detached."""
        raise NotImplementedError

    def reach(self, tgt_len: int) -> int | None:
        """How many tokens back a state can carry anything, on a segment border; None if without limit."""
        raise NotImplementedError

    def cost(self, tgt_len: int) -> tuple[float, float]:
        """An estimate for segments of `tgt_len`, per token: multiplications, and numbers that are held at once."""
        shapes = [parameter.shape for parameter in self.parameters()]
        return sum(shape.numel() for shape in shapes), 4 * max((*shape, 1)[0] for shape in shapes)

    def forward(self, tokens_BT: Tensor, targets_BT: Tensor, state: State) -> tuple[Tensor, State]:
        """The losses (B, T) in nats, in token order, and the new state, detached."""
        h_BTD, state = self.hidden(tokens_BT, state)
        return self.softmax(h_BTD.flatten(0, 1), targets_BT.flatten()).view(targets_BT.shape), state

    def log_probs(self, tokens_BT: Tensor, state: State) -> tuple[Tensor, State]:
        """The full table of log-probabilities (B, T, vocabulary) of the next token, and the new state."""
        h_BTD, state = self.hidden(tokens_BT, state)
        return self.softmax.log_probs(h_BTD.flatten(0, 1)).unflatten(0, tokens_BT.shape), state

    def blocks(self) -> list[nn.Module]:
        """The modules that `trainer.compile` compiles: all of one class, called with the same kinds of arguments."""
        return []

    def notes(self) -> list[str]:
        """What was chosen for the device and precision the weights now have: sentences for the log."""
        return []

    def context(self) -> dict[str, Any]:
        """The settings that say how far the model looks back, and may differ between training and evaluation."""
        return {}

    def set_context(self, **settings: Any) -> None:
        """Change settings of `context()`; UserError for one the model does not have or cannot take."""
        for key in settings:
            if key not in self.context():
                raise UserError(f"{key}={settings[key]} has no meaning for {type(self).__name__}")

    @contextmanager
    def with_context(self, **settings: Any) -> Iterator[None]:
        """Use other context settings for a while; the settings before are restored at the end."""
        before = self.context()
        self.set_context(**settings)
        try:
            yield
        finally:
            self.set_context(**before)


def map_state(function: Callable[..., Tensor], *states: State) -> State:
    """Apply `function` to the corresponding tensors of states of one structure."""
    first: Any = states[0]
    if isinstance(first, Tensor):
        return function(*states)
    if isinstance(first, dict):
        return {key: map_state(function, *(state[key] for state in states)) for key in first}
    make = getattr(type(first), "_make", type(first))  # of a named tuple, or of a tuple or list
    return make(map_state(function, *parts) for parts in zip(*states, strict=True))


def slice_lanes(state: State, lanes: slice) -> State:
    return map_state(lambda x: x[lanes], state)


def gather_lanes(state: State, lanes: Tensor) -> State:
    """The state whose lane i is lane `lanes[i]` of `state`: (B,) int64, in any order and as often as wanted."""
    return map_state(lambda x: x.index_select(0, lanes), state)


def join_lanes(states: Sequence[State]) -> State:
    return map_state(lambda *xs: torch.cat(xs), *states)

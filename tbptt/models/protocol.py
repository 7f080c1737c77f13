"""The interface of all models: a module that takes a state and returns the next one.

A state is a pytree (nested tuples, lists and dicts) of tensors whose axis 0 is the LANE. The functions below rely on
this rule alone to slice, join and move the state of any model.

Shapes: B lanes, T tokens of one segment, D model size.
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
from tbptt.models.parameters import ParameterGroups, group_parameters

State = Any  # a pytree of tensors, lanes on axis 0


class InitialMemory(Enum):
    """The memory before the first token."""

    empty = "empty"  # no positions
    zeros = "zeros"  # mem_len zero vectors that are attended to, as in Hugging Face's Transformer-XL


@dataclass
class ModelConfig:
    """Base class of model configurations (structured configs of the `model` group)."""

    name: str
    tgt_len: int  # tokens per segment: one forward and backward pass

    RESULT_NEUTRAL: ClassVar[tuple[str, ...]] = ()  # settings that change results by rounding only

    def check(self, vocab_size: int | None) -> None:
        """Raise UserError for invalid settings; `vocab_size` is None if it is not known yet."""
        if self.tgt_len < 1:
            raise UserError(f"model.tgt_len={self.tgt_len} must be at least 1")

    def check_eval(self, settings: dict[str, Any]) -> None:
        """Raise UserError for context settings (eval.mem_len, ...) that this model cannot be evaluated with."""
        if settings:
            unused = ", ".join(f"eval.{key}={value}" for key, value in settings.items())
            raise UserError(f"{unused} does not apply to a model of the kind {self.name}, whose state has a fixed size")

    def check_documents(self, settings: dict[str, Any]) -> None:
        """Raise UserError if documents cannot reset the state of this model under these context settings."""

    def any_segments(self, settings: dict[str, Any]) -> bool:
        """As of the model (below), under these context settings."""
        return True

    def check_precision(self, precision: Precision, device: torch.device) -> None:
        """Raise UserError if this model cannot run in this precision on this device."""

    def waits_for_starts(self, precision: Precision, device: torch.device) -> bool:
        """Whether the host must learn from the device where documents start, which CUDA graphs cannot capture."""
        return False

    def build(self, vocab_size: int, activation_checkpointing: bool = False) -> RecurrentModel:
        raise NotImplementedError


class RecurrentModel(nn.Module):
    """Base class of models.

    A model defines `initial_state`, `reach` and `hidden`, and has a `softmax` that computes losses from hidden states.
    """

    softmax: Any  # an AdaptiveSoftmax or a module with the same `forward` and `log_probs`

    def initial_state(self, batch_size: int) -> State:
        """The state of `batch_size` lanes before their first token: empty, unless the model is configured otherwise."""
        raise NotImplementedError

    def for_inference(self, state: State) -> State:
        """Convert a state to the form that is fastest while the weights do not change. `hidden` accepts both forms."""
        return state

    def send(self, ids: Any, device: torch.device, multiple: int = 1) -> Any:
        """Copy token ids to the device, with anything the model precomputes from them on the host.

        Returns a pytree of tensors that the model accepts in place of ids. Sizes that depend on the ids are rounded up
        to a multiple of `multiple`, so that fewer different sizes occur.
        """
        return map_state(lambda x: send(x, device), ids)

    def hidden(self, tokens_BT: Tensor, state: State, starts_BT: Tensor | None = None) -> tuple[Tensor, State]:
        """The last layer's output (B, T, D), after dropout, and the new state, attached to the graph that made it.

        `starts_BT` (bool): this token begins a document, which gets exactly the outputs and gradients that it has alone
        from the empty state. None: no token does.
        """
        raise NotImplementedError

    def reach(self, tgt_len: int) -> int | None:
        """How many tokens before a segment border can affect the state there; None if there is no limit."""
        raise NotImplementedError

    def any_segments(self) -> bool:
        """Whether a text has the same losses in segments of any length: the model does not see where it is cut."""
        return False

    def cost(self, tgt_len: int) -> tuple[float, float]:
        """Estimated multiplications, and numbers held in memory at once, per token for segments of `tgt_len`."""
        shapes = [parameter.shape for parameter in self.parameters()]
        return sum(shape.numel() for shape in shapes), 4 * max((*shape, 1)[0] for shape in shapes)

    def state_size(self) -> int:
        """The numbers in the state of one lane, at most: those of a memory that is full."""
        return numel(self.initial_state(1))

    def forward(
        self, tokens_BT: Tensor, targets_BT: Tensor, state: State, starts_BT: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """The losses (B, T) in nats, in token order, and the new state, attached. `starts_BT` as for `hidden`."""
        h_BTD, state = self._hidden(tokens_BT, state, starts_BT)
        return self.softmax(h_BTD.flatten(0, 1), targets_BT.flatten()).view(targets_BT.shape), state

    def log_probs(self, tokens_BT: Tensor, state: State, starts_BT: Tensor | None = None) -> tuple[Tensor, State]:
        """The log-probabilities (B, T, vocabulary size) of the next token, and the new state."""
        h_BTD, state = self._hidden(tokens_BT, state, starts_BT)
        return self.softmax.log_probs(h_BTD.flatten(0, 1)).unflatten(0, tokens_BT.shape), state

    def _hidden(self, tokens_BT: Tensor, state: State, starts_BT: Tensor | None) -> tuple[Tensor, State]:
        """A model that knows no documents need not take their starts."""
        return self.hidden(tokens_BT, state) if starts_BT is None else self.hidden(tokens_BT, state, starts_BT)

    def blocks(self) -> list[nn.Module]:
        """The modules that `trainer.compile` compiles: all of one class, called with the same argument types."""
        return []

    def notes(self) -> list[str]:
        """Log messages about choices that depend on the device and dtype of the weights, and on autocast."""
        return []

    def parameter_groups(self) -> ParameterGroups:
        """Its parameters by what they are: optimizers treat the groups differently."""
        return group_parameters(self)

    def context(self) -> dict[str, Any]:
        """The settings of the context length, which may differ between training and evaluation."""
        return {}

    def set_context(self, **settings: Any) -> None:
        """Change settings of `context()`. UserError for an unknown setting or an invalid value."""
        for key in settings:
            if key not in self.context():
                raise UserError(f"{key}={settings[key]} does not apply to {type(self).__name__}")

    @contextmanager
    def with_context(self, **settings: Any) -> Iterator[None]:
        """Use other context settings inside a `with` block; the previous settings are restored at its end."""
        before = self.context()
        self.set_context(**settings)
        try:
            yield
        finally:
            self.set_context(**before)


def map_state(function: Callable[..., Tensor], *states: State) -> State:
    """Apply `function` to the corresponding tensors of states that have the same structure."""
    first: Any = states[0]
    if isinstance(first, Tensor):
        return function(*states)
    if isinstance(first, dict):
        return {key: map_state(function, *(state[key] for state in states)) for key in first}
    make = getattr(type(first), "_make", type(first))  # a named tuple is built with _make
    return make(map_state(function, *parts) for parts in zip(*states, strict=True))


def numel(state: State) -> int:
    """The numbers in a state."""
    sizes: list[int] = []

    def add(x: Tensor) -> Tensor:
        sizes.append(x.numel())
        return x

    map_state(add, state)
    return sum(sizes)


def detach(state: State) -> State:
    """The same state as a constant: what ends a window, through which no gradient flows any further back."""
    return map_state(Tensor.detach, state)


def slice_lanes(state: State, lanes: slice) -> State:
    """The state of a slice of the lanes."""
    return map_state(lambda x: x[lanes], state)


def gather_lanes(state: State, lanes: Tensor) -> State:
    """The state whose lane i is lane `lanes[i]` of `state`; `lanes` (B,) int64 may repeat and reorder lanes."""
    return map_state(lambda x: x.index_select(0, lanes), state)


def join_lanes(states: Sequence[State]) -> State:
    """Concatenate states along the lanes."""
    return map_state(lambda *xs: torch.cat(xs), *states)

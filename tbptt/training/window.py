"""The segments of one update: computed one after the other, the state attached between them.

The gradient of a window of k segments reaches back through all of them, and ends at the state that the window starts
from.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tbptt.models.protocol import RecurrentModel, State

# Token ids and targets (B, T), or what the model's `send` makes of them; where documents count, also their starts.
Segment = tuple[Any, ...]


class Window(nn.Module):
    def __init__(self, model: RecurrentModel, reset_each: bool = False, recompute: bool = False):
        """With `reset_each`, every segment starts from the empty state.

        With `recompute`, the backward pass computes each segment again from its state, with the same dropout masks, so
        that the activations of one segment at a time are in memory, and the states of all.
        """
        super().__init__()
        self.model, self.reset_each, self.recompute = model, reset_each, recompute

    def forward(self, segments: Sequence[Segment], state: State) -> tuple[Tensor, State]:
        """The sum of the losses in nats (a scalar), and the state after the last segment, attached."""
        total = None
        for tokens_BT, targets_BT, *starts_BT in segments:
            if self.reset_each:
                state = self.model.initial_state(tokens_BT.shape[0])
            if self.recompute and len(segments) > 1:
                nll_BT, state = checkpoint(self.model, tokens_BT, targets_BT, state, *starts_BT, use_reentrant=False)
            else:
                nll_BT, state = self.model(tokens_BT, targets_BT, state, *starts_BT)
            total = nll_BT.sum() if total is None else total + nll_BT.sum()
        assert total is not None, "a window has at least one segment"
        return total, state

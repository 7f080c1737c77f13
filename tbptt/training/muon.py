"""torch's Muon on the projections of hidden layers and its AdamW on all other parameters, as one optimizer.

A parameter may hold several projections, such as those of keys and values: Muon takes each by itself, as a view.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any

import torch
from torch import Tensor, nn

from tbptt.errors import UserError
from tbptt.models.parameters import Split


class AdjustRate(Enum):
    match_rms_adamw = "match_rms_adamw"  # updates as large as AdamW's, whose rates fit (Liu et al. 2025)
    original = "original"  # times sqrt(max(1, rows / columns)) (Jordan et al. 2024)


class Muon(torch.optim.Optimizer):
    """The trainer sets the rate of every group; that of AdamW's groups is multiplied by `adam_share`.

    The state of a matrix is a momentum of its shape. A step with `found_inf` 1 changes neither weights nor state;
    gradients are divided by `grad_scale` if that is set.
    """

    found_inf: Tensor | None = None
    grad_scale: Tensor | None = None

    def __init__(
        self,
        matrices: Mapping[nn.Parameter, Split],
        others: Sequence[dict[str, Any]],
        lr: float,
        adam_share: float,
        muon: dict[str, Any],
        adam: dict[str, Any],
    ):
        """`others` are groups for AdamW; `muon` and `adam` are arguments of the two."""
        self.matrices, self.adam_share = matrices, adam_share
        # torch's Muon reads its rate on the host, where a tensor on the device would have to be waited for.
        # "fused" is AdamW's: with it, torch loads the counts of steps to the device, where its kernel reads them.
        groups = [{"params": list(matrices), "rate_on_host": True}, *({"fused": True} | group for group in others)]
        super().__init__(groups, {"lr": lr})
        for parameter in matrices:
            self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        self.parts = {p: [nn.Parameter(part) for part in split(p.detach())] for p, split in matrices.items()}
        self.muon = torch.optim.Muon([part for parts in self.parts.values() for part in parts], lr, **muon)
        self.adam = torch.optim.AdamW([dict(group) for group in others], lr, fused=True, **adam)
        self._share_state()

    def _share_state(self) -> None:
        """Both optimizers work on the state of this one."""
        self.adam.state = self.state
        for parameter, parts in self.parts.items():
            momenta = self.matrices[parameter](self.state[parameter]["momentum_buffer"])
            for part, momentum in zip(parts, momenta, strict=True):
                self.muon.state[part]["momentum_buffer"] = momentum

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        if {p for p, state in self.state.items() if "momentum_buffer" in state} != set(self.matrices):
            raise UserError(
                "the checkpoint's state of optimizer=muon is of other matrices than those of this version, which gives "
                "biases and norms to AdamW: start a new run from its weights (checkpoint=RUN)"
            )
        self._share_state()

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        adam: Any = self.adam  # torch's fused optimizers read these attributes
        adam.found_inf, adam.grad_scale = self.found_inf, self.grad_scale
        for mine, group in zip(self.param_groups[1:], self.adam.param_groups, strict=True):
            group["lr"] = mine["lr"] * self.adam_share
        self.adam.step()
        changing: list[Tensor] = []
        for parameter, parts in self.parts.items():
            if parameter.grad is None:
                continue
            gradient = parameter.grad if self.grad_scale is None else parameter.grad / self.grad_scale
            for part, view in zip(parts, self.matrices[parameter](gradient), strict=True):
                part.grad = view
            changing += [parameter, self.state[parameter]["momentum_buffer"]]
        before = [x.clone() for x in changing]
        self.muon.param_groups[0]["lr"] = self.param_groups[0]["lr"]
        self.muon.step()
        if self.found_inf is not None:  # a skipped step is undone, so that the host need not wait to know of it
            for x, old in zip(changing, before, strict=True):
                x.copy_(torch.where(self.found_inf > 0, old, x))

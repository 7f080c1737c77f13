"""Looking words up in a table that a softmax uses too: both add to one gradient.

Left to autograd, the lookup's gradient would be a table of zeros with a few other rows, and adding the two a pass over
both.

Shapes: n words, a table of V rows of size E.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class Lookup(torch.autograd.Function):
    """The rows of some words, and the table as the softmax shall use it: its gradient comes back here."""

    @staticmethod
    def forward(ctx: Any, table_VE: Tensor, words_n: Tensor) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(words_n)
        ctx.shape = table_VE.shape
        return table_VE.index_select(0, words_n), table_VE.view_as(table_VE)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_rows: Tensor | None, d_table: Tensor | None) -> tuple[Tensor | None, None]:
        (words_n,) = ctx.saved_tensors
        if d_rows is None:
            return d_table, None
        if d_table is None:  # nothing was scored
            d_table = d_rows.new_zeros(ctx.shape)
        if d_table.device.type == "cpu":
            return d_table.index_add_(0, words_n, d_rows), None
        return d_table.index_put_((words_n,), d_rows, accumulate=True), None  # sorted first: in an order that repeats

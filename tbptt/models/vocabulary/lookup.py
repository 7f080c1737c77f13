"""Embedding lookup in a table that is tied to the softmax, with one gradient buffer for both.

Autograd would allocate a mostly zero table for the gradient of the lookup, and add it to the gradient of the softmax in
another pass over both tables.

Shapes: n token ids, a table of V rows of size E.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class TiedLookup(torch.autograd.Function):
    """Returns the rows of the ids, and a view of the table for the softmax, whose gradient is accumulated here too."""

    @staticmethod
    def forward(ctx: Any, table_VE: Tensor, ids_n: Tensor) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(ids_n)
        ctx.shape = table_VE.shape
        return table_VE.index_select(0, ids_n), table_VE.view_as(table_VE)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_rows: Tensor | None, d_table: Tensor | None) -> tuple[Tensor | None, None]:
        (ids_n,) = ctx.saved_tensors
        if d_rows is None:
            return d_table, None
        if d_table is None:  # the softmax was not used
            d_table = d_rows.new_zeros(ctx.shape)
        if d_table.device.type == "cpu":
            return d_table.index_add_(0, ids_n, d_rows), None
        return d_table.index_put_((ids_n,), d_rows, accumulate=True), None  # sorts the indices first: deterministic

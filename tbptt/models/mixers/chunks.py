"""Linear recurrences in chunks: what lies within a chunk by matrix products, the state from chunk to chunk by a loop.

    S_t = decay_t S_(t-1) + k_t v_t^T,   o_t = S_t^T q_t

What the forms of several recurrences share.

Shapes: B lanes, H heads, T tokens, K and V sizes of keys and values, N chunks of C tokens. States (B, H, K, V).
Decays are given by their logarithms, which are at most 0: only differences c_i - c_j <= 0 of their sums are ever
exponentiated, so that nothing overflows however fast a state is forgotten. Where a document starts (documents.py), what
came before it is left out by masks: a log decay of -inf in the differences, never in the sums.

Loops take their chunks from `unbind`, whose gradient is one tensor; that of every x[:, :, n] would be as large as x.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


def split_chunks(x: Tensor, chunk: int, value: float = 0.0) -> Tensor:
    """(B, H, T, ...) -> (B, H, N, C, ...), padded at the end with tokens that change nothing."""
    if padding := -x.shape[2] % chunk:
        x = F.pad(x, (*[0] * 2 * (x.dim() - 3), 0, padding), value=value)
    return x.unflatten(2, (-1, chunk))


def join_chunks(x: Tensor, length: int) -> Tensor:
    """The inverse of `split_chunks`."""
    return x.flatten(2, 3)[:, :, :length]


def heads_last(like_BHNCV: Tensor, heads: int | None = None, width: int | None = None) -> Tensor:
    """An empty (B, heads, N, C, width): the heads of a token lie side by side, as linear maps write and read them."""
    B, H, N, C, V = like_BHNCV.shape
    return like_BHNCV.new_empty(B, N, C, heads or H, width or V).permute(0, 3, 1, 2, 4)


def document_starts(since_BT: Tensor | None, chunk: int) -> Tensor | None:
    """The index in its chunk at which each token's document starts, (B, N, C); below 0: before the chunk.

    Padded tokens belong to the last document. None: there are no starts.
    """
    if since_BT is None:
        return None
    T = since_BT.shape[1]
    start_BT = torch.arange(T, device=since_BT.device) - since_BT
    if padding := -T % chunk:
        start_BT = torch.cat([start_BT, start_BT[:, -1:].expand(-1, padding)], dim=1)
    start_BNC = start_BT.unflatten(1, (-1, chunk))
    return start_BNC - chunk * torch.arange(start_BNC.shape[1], device=since_BT.device).unsqueeze(-1)


class LogDecays:
    """What is left in chunks, in logarithms: sums of the log decays of every token, and -inf where nothing is left."""

    def __init__(self, log_decay_BHNC: Tensor, start_BNC: Tensor | None):
        """Of (B, H, N, C), or of (B, H, N, C, K), where all results have K as their last axis too."""
        self.c_BHNC = log_decay_BHNC.cumsum(3)
        self.token_C = torch.arange(log_decay_BHNC.shape[3], device=log_decay_BHNC.device)
        self.start_BNC = start_BNC

    def between(self) -> Tensor:
        """At token i of what came in at j <= i of the same chunk, (B, H, N, C, C)."""
        unseen_BNCC = (self.token_C > self.token_C.unsqueeze(-1)).expand(1, 1, -1, -1)
        if self.start_BNC is not None:
            unseen_BNCC = unseen_BNCC | (self.token_C < self.start_BNC.unsqueeze(-1))
        return _hide(self.c_BHNC.unsqueeze(4) - self.c_BHNC.unsqueeze(3), unseen_BNCC)

    def from_start(self) -> Tensor:
        """At every token of the state before its chunk, (B, H, N, C)."""
        return self.c_BHNC if self.start_BNC is None else _hide(self.c_BHNC, self.start_BNC >= 0)

    def to_end(self) -> Tensor:
        """After the chunk of what came in at every token, (B, H, N, C)."""
        left = self.c_BHNC[:, :, :, -1:] - self.c_BHNC
        return left if self.start_BNC is None else _hide(left, self.token_C < self.start_BNC[:, :, -1:])

    def across(self) -> Tensor:
        """After the chunk of the state before it, (B, H, N)."""
        left = self.c_BHNC[:, :, :, -1]
        return left if self.start_BNC is None else _hide(left, self.start_BNC[:, :, -1] >= 0)


def _hide(x: Tensor, mask_BN: Tensor) -> Tensor:
    """-inf where the mask is set, in all heads and channels: it has the axes of x, but no heads and no channels.

    Added, since a sum needs no pass of its own in the backward pass.
    """
    hidden = torch.zeros(mask_BN.shape, dtype=x.dtype, device=x.device).masked_fill_(mask_BN, -torch.inf).unsqueeze(1)
    return x + hidden.view(*hidden.shape, *[1] * (x.dim() - hidden.dim()))


def factors(logs: Tensor) -> Tensor:
    """exp(logs) of log decays, -inf among them. It has no second gradients."""
    return Factors.apply(logs) if logs.device.type == "cpu" else logs.exp()


class Factors(torch.autograd.Function):
    """On a processor torch's exp takes eight times as long where it meets -inf or what it rounds to 0; exp2 does not.

    The rounded product with log2(e) costs as much accuracy as the sums of log decays have lost already.
    """

    @staticmethod
    def forward(ctx: Any, logs: Tensor) -> Tensor:
        result = (logs * math.log2(math.e)).exp2_()
        ctx.save_for_backward(result)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_result: Tensor) -> Tensor:
        (result,) = ctx.saved_tensors
        return d_result * result


def carry(S_BHKV: Tensor, kept_BHN: Tensor, added_BHNKV: Tensor) -> tuple[Tensor, Tensor]:
    """S <- kept S + added, chunk by chunk: the states (B, H, N, K, V) before every chunk, and the last one.

    `kept` may also have a channel axis: (B, H, N, K).
    """
    starts = []
    kept = kept_BHN.reshape(*kept_BHN.shape[:3], -1, 1)
    for kept_n, added_n in zip(kept.unbind(2), added_BHNKV.unbind(2)):
        starts.append(S_BHKV)
        S_BHKV = S_BHKV * kept_n + added_n
    return torch.stack(starts, 2), S_BHKV


def log_decay_gradient(o: Tensor, do: Tensor, v: Tensor, dv: Tensor, S_dS: Tensor) -> Tensor:
    """Of log decays (B, H, N, C), from outputs and values (B, H, N, C, V), their gradients, and S dS (B, H, N, 1).

    Of the sums c_t of log decays in a chunk: S_t is e^(c_t) times a matrix that meets them only in v_t e^(-c_t). S
    scaled at the start of the chunk is the same as decayed at its first token: all of them together are S dS.
    """
    dc = (o * do).sum(-1) - (v * dv).sum(-1)
    return S_dS + dc - dc.cumsum(-1)

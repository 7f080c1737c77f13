"""Samples a token from log-probabilities.

Shapes: B lanes, V words of the vocabulary, K candidates, most likely first.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tbptt.generation.config import SampleConfig


def candidates(log_probs_BV: Tensor, config: SampleConfig) -> tuple[Tensor, Tensor]:
    """The tokens (B, K) int64 that can be drawn, most likely first, and their probabilities (B, K); 0 outside top_p."""
    greedy = config.temperature == 0
    k = 1 if greedy else min(config.top_k or log_probs_BV.shape[1], log_probs_BV.shape[1])
    log_probs_BK, tokens_BK = log_probs_BV.double().topk(k)
    probs_BK = (log_probs_BK / (1 if greedy else config.temperature)).softmax(-1)
    before_BK = probs_BK.cumsum(-1) - probs_BK
    probs_BK = probs_BK.where(before_BK < config.top_p, 0)
    return tokens_BK, probs_BK / probs_BK.sum(-1, keepdim=True)


def draw(tokens_BK: Tensor, probs_BK: Tensor, uniform_B: Tensor) -> Tensor:
    """Draw one token of each row, (B,), by inverting its cumulative distribution at `uniform_B`, in [0, 1)."""
    cumulative_BK = probs_BK.cumsum(-1)
    # In (0, total], so that the first entry that reaches it has a nonzero probability.
    level_B1 = (1 - uniform_B.to(probs_BK))[:, None] * cumulative_BK[:, -1:]
    return tokens_BK.gather(1, torch.searchsorted(cumulative_BK, level_B1)).squeeze(1)

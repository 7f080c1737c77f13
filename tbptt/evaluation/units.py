"""Converts a loss per token to perplexity and bits, per token and per word or byte of the original text.

The total loss of a subword model is divided by the words of the text, counted as in the WikiText papers: words between
white space, and one end of line for each line. The first of n words (or bytes), like the first token, is not predicted
and not counted, so that a vocabulary with one token per word (byte) gives the same perplexity (bits) in both units. Of
documents, the first token is a start, and all words are predicted; the loss of the other starts is counted with them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from tbptt.data.config import Level


def loss_units(loss: float, level: Level) -> dict[str, float]:
    """The loss in nats, the perplexity, and for characters or bytes the bits per character (byte)."""
    bits = {"bpc": loss / math.log(2)} if level in (Level.char, Level.byte) else {}
    return {"loss": loss, "ppl": _exp(loss)} | bits


def original_units(loss: float, tokens: int, level: Level, split_counts: Mapping[str, Any]) -> dict[str, float]:
    """For subwords: the perplexity per word and the bits per byte of the text. Empty unless a whole split was scored.

    `loss` is the mean over `tokens` targets; `split_counts` are the counts of the split in the corpus's meta.json.
    """
    if level is not Level.bpe or tokens != split_counts["tokens"] - 1:
        return {}
    total = loss * tokens
    unpredicted = 0 if "documents" in split_counts else 1
    words, size = (max(1, split_counts[key] - unpredicted) for key in ("words", "source_bytes"))
    return {"word_ppl": _exp(total / words), "bits_per_byte": total / math.log(2) / size}


def _exp(loss: float) -> float:
    return math.exp(loss) if loss < 700 else math.inf

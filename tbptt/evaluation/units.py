"""What a loss per token means to people: perplexities and bits, of tokens and of the original text.

A subword model's losses are spread over the units of the text, as the WikiText papers count them: words between white
space and one end of line for each line. The first of n units, like the first token, is given and not predicted, so that
a vocabulary in which every word (byte) is one token has its own perplexity (bits).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from tbptt.data.config import Level


def loss_units(loss: float, level: Level) -> dict[str, float]:
    """The loss in nats, the perplexity, and for characters or bytes the bits of each."""
    bits = {"bpc": loss / math.log(2)} if level in (Level.char, Level.byte) else {}
    return {"loss": loss, "ppl": _exp(loss)} | bits


def original_units(loss: float, tokens: int, level: Level, counts: Mapping[str, Any]) -> dict[str, float]:
    """Of subwords, if a whole split was scored: the perplexity per word and the bits per byte of its text.

    `loss` is the mean over `tokens` targets; `counts` are the split's in the corpus's meta.json.
    """
    if level is not Level.bpe or tokens != counts["tokens"] - 1:
        return {}
    total = loss * tokens
    words, size = max(1, counts["words"] - 1), max(1, counts["source_bytes"] - 1)
    return {"word_ppl": _exp(total / words), "bits_per_byte": total / math.log(2) / size}


def _exp(loss: float) -> float:
    return math.exp(loss) if loss < 700 else math.inf

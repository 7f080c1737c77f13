"""Continues a prompt: reads it once, in segments, then generates one token per step from the carried state.

The state is all that is kept of earlier tokens, so memory use does not grow with the text. The model's mode and context
settings are not changed.

Shapes: P tokens of the prompt, B lanes (samples or beams), V words of the vocabulary, L tokens generated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count

import numpy as np
import torch
from torch import Tensor

from tbptt.device import Precision, autocast
from tbptt.generation.config import BeamConfig, SampleConfig
from tbptt.generation.sampling import candidates, draw
from tbptt.models.protocol import RecurrentModel, State, gather_lanes


@torch.no_grad()
def prefill(model: RecurrentModel, tokens_P: Tensor, tgt_len: int, precision: Precision) -> State:
    """The state of one lane after reading `tokens_P` in segments of `tgt_len`; for no tokens, the initial state."""
    state = model.for_inference(model.initial_state(1))
    for segment_T in tokens_P.split(tgt_len) if len(tokens_P) else ():
        with autocast(tokens_P.device, precision):
            _, state = model.hidden(segment_T[None], state)
    return state


def step(
    model: RecurrentModel, tokens_B: Tensor, state: State, precision: Precision, start: int | None = None
) -> tuple[Tensor, State]:
    """Read one token in every lane. Returns log-probabilities (B, V) float64 of the next token, and the new state.

    The token `start` begins a document: it is read from the empty state.
    """
    starts_B1 = None if start is None else tokens_B[:, None] == start
    with autocast(tokens_B.device, precision):
        log_probs_B1V, state = model.log_probs(tokens_B[:, None], state, starts_B1)
    return log_probs_B1V.squeeze(1).double(), state


@torch.no_grad()
def sample(
    model: RecurrentModel,
    prompt_P: Tensor,
    config: SampleConfig,
    seed: int,
    tgt_len: int,
    precision: Precision = Precision.fp32,
    start: int | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the next token of every sample, (B,) int64, and its log-probability under the model, (B,) in nats.

    `prompt_P` holds at least one token. The random numbers of a sample depend only on the seed and the sample's index,
    not on the number of samples. At the token `start` the state is emptied.
    """
    state = prefill(model, prompt_P[:-1], tgt_len, precision)
    state = gather_lanes(state, prompt_P.new_zeros(config.samples))
    tokens_B = prompt_P[-1:].expand(config.samples)
    generators = [np.random.default_rng([seed, number]) for number in range(config.samples)]
    for _ in count() if config.length is None else range(config.length):
        log_probs_BV, state = step(model, tokens_B, state, precision, start)
        uniform_B = torch.tensor([generator.random() for generator in generators], dtype=torch.float64)
        tokens_B = draw(*candidates(log_probs_BV, config), uniform_B)
        yield tokens_B, log_probs_BV.gather(1, tokens_B[:, None]).squeeze(1)


@torch.no_grad()
def beam_search(
    model: RecurrentModel,
    prompt_P: Tensor,
    config: BeamConfig,
    tgt_len: int,
    precision: Precision = Precision.fp32,
    progress: Callable[[], object] = lambda: None,
    start: int | None = None,
) -> tuple[Tensor, Tensor]:
    """The best continuations found, (B, L) int64, and their log-probabilities (B,) in nats, most likely first.

    `progress` is called after every token. At the token `start` the state is emptied.
    """
    assert config.length is not None
    state = prefill(model, prompt_P[:-1], tgt_len, precision)
    tokens_B, found_BL = prompt_P[-1:], prompt_P.new_empty(1, 0)
    total_B = torch.zeros(1, dtype=torch.float64, device=prompt_P.device)
    for _ in range(config.length):
        log_probs_BV, state = step(model, tokens_B, state, precision, start)
        total_N = (total_B[:, None] + log_probs_BV).flatten()
        total_B, best_B = total_N.topk(min(config.beams, len(total_N)))
        parent_B, tokens_B = best_B // log_probs_BV.shape[1], best_B % log_probs_BV.shape[1]
        state = gather_lanes(state, parent_B)
        found_BL = torch.cat([found_BL[parent_B], tokens_B[:, None]], dim=1)
        progress()
    return found_BL, total_B

"""Streams of documents for tests, and what a model makes of each document alone."""

import numpy as np
import torch
from hypothesis import strategies as st

from tbptt.models.protocol import RecurrentModel
from tests.models.tiny import random_stream


@st.composite
def document_streams(draw, longest: int = 17) -> tuple[np.ndarray, np.ndarray]:
    """A random stream of at least two tokens and the first tokens of its documents, some of a single token."""
    lengths = draw(st.lists(st.integers(1, longest), min_size=1, max_size=7).filter(lambda lengths: sum(lengths) > 1))
    return random_stream(sum(lengths), seed=draw(st.integers(0, 9))), np.cumsum(lengths) - lengths


@torch.no_grad()
def losses_alone(model: RecurrentModel, stream: np.ndarray, starts_D: np.ndarray, grid: int) -> np.ndarray:
    """The losses of every target, each document read from the empty state, cut at the stream's multiples of `grid`."""
    tokens_1L, losses = torch.from_numpy(stream.astype(np.int64))[None], []
    for start, end in zip(starts_D, [*starts_D[1:], len(stream) - 1]):
        state, cuts = model.initial_state(1), range(int(start) // grid * grid + grid, int(end), grid)
        for first, last in zip([start, *cuts], [*cuts, end]):
            if first < last:
                part = slice(first, last), slice(first + 1, last + 1)
                nll_1T, state = model(tokens_1L[:, part[0]], tokens_1L[:, part[1]], state)
                losses.append(nll_1T[0])
    return torch.cat(losses).numpy()

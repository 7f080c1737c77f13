"""Documents in lanes: every target once, starts where documents begin, shuffled whole, whoever reads them."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tbptt.data.document_lanes import DocumentLanes, find_documents
from tbptt.data.lanes import Lanes
from tbptt.errors import UserError

START = 0


@st.composite
def corpora(draw) -> tuple[np.ndarray, np.ndarray]:
    """A stream of documents and their first tokens: a start token, then numbers that occur once."""
    lengths = draw(st.lists(st.integers(1, 9), min_size=1, max_size=12).filter(lambda lengths: sum(lengths) > 4))
    starts_D = np.cumsum(lengths) - lengths
    stream = np.arange(1, sum(lengths) + 1, dtype=np.uint16)
    stream[starts_D] = START
    return stream, starts_D


def epoch_of(lanes, epoch: int = 0) -> tuple[torch.Tensor, ...]:
    """All segments of an epoch put together: tokens, targets and starts (B, L)."""
    return tuple(torch.cat(parts, dim=1) for parts in zip(*(lanes.segment(i, epoch) for i in range(len(lanes)))))


@given(corpora(), st.integers(1, 4), st.integers(1, 7))
def test_in_order_they_are_the_lanes_of_the_stream_with_the_starts(corpus, batch_size, tgt_len):
    stream, starts_D = corpus
    tokens_BL, targets_BL, starts_BL = epoch_of(DocumentLanes(stream, starts_D, batch_size, tgt_len))
    plain = Lanes.cut(stream, batch_size, tgt_len)
    assert torch.equal(tokens_BL, torch.from_numpy(plain.tokens_BL.astype(np.int64)))
    assert torch.equal(targets_BL, torch.from_numpy(plain.targets_BL.astype(np.int64)))
    assert torch.equal(starts_BL, tokens_BL == START)


@given(corpora(), st.integers(1, 7), st.integers(0, 3), st.integers(0, 3))
def test_shuffled_documents_stay_whole_and_all_are_read(corpus, tgt_len, seed, epoch):
    stream, starts_D = corpus
    tokens_BL, targets_BL, starts_BL = epoch_of(DocumentLanes(stream, starts_D, 1, tgt_len, seed), epoch)
    read = torch.cat([tokens_BL[0], targets_BL[0, -1:]]).numpy()
    assert torch.equal(tokens_BL[:, 1:], targets_BL[:, :-1])
    assert torch.equal(starts_BL, tokens_BL == START)

    def documents(tokens: np.ndarray) -> list[list[int]]:
        return sorted(part.tolist() for part in np.split(tokens, np.flatnonzero(tokens == START)[1:]))

    assert documents(read) == documents(stream)


@given(corpora(), st.integers(2, 4), st.integers(0, 3), st.data())
def test_a_part_of_the_lanes_reads_what_they_read_together(corpus, batch_size, epoch, data):
    stream, starts_D = corpus
    first = data.draw(st.integers(0, batch_size - 1))
    part = slice(first, data.draw(st.integers(first + 1, batch_size)))
    lanes = DocumentLanes(stream, starts_D, batch_size, 3, shuffle_seed=5)
    for whole, own in zip(epoch_of(lanes, epoch), epoch_of(lanes.part(part), epoch)):
        assert torch.equal(whole[part], own)
    assert lanes.part(part).batch_size == part.stop - part.start


def test_every_epoch_and_seed_has_an_order_of_its_own_and_always_the_same():
    stream, starts_D = np.arange(300, dtype=np.uint16), np.arange(0, 300, 3)

    def order(epoch: int, seed: int) -> torch.Tensor:
        return epoch_of(DocumentLanes(stream, starts_D, 2, 7, seed), epoch)[0]

    assert torch.equal(order(1, 2), order(1, 2))
    assert not torch.equal(order(1, 2), order(2, 2)) and not torch.equal(order(1, 2), order(1, 3))


@given(corpora())
def test_every_token_belongs_to_the_document_that_began_last(corpus):
    stream, starts_D = corpus
    documents, positions = find_documents(starts_D, np.arange(len(stream)))
    assert np.array_equal(starts_D[documents] + positions, np.arange(len(stream)))
    assert np.array_equal(positions == 0, stream == START)


def test_a_stream_too_short_for_its_lanes_is_refused():
    with pytest.raises(UserError, match=r"data\.batch_size=3 lanes need at least 4 tokens; there are 3"):
        DocumentLanes(np.arange(3), np.array([0]), 3, 2)

"""Words sorted by cluster: every word once, whatever else is added to reach a multiple, and without an effect."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from tbptt.models.vocabulary.clusters import ClusteredIds, cluster_bounds
from tests.helpers import assert_close
from tests.models.test_adaptive import cases

IDS = st.lists(st.integers(0, 19), min_size=1, max_size=30).map(torch.tensor)
CUTOFFS = st.sets(st.integers(1, 19), min_size=1, max_size=3).map(sorted)


@given(IDS, CUTOFFS, st.integers(1, 9))
def test_every_word_is_in_its_cluster_once_and_numbers_of_words_are_multiples(ids_N, cutoffs, multiple):
    bounds, seen = cluster_bounds(20, cutoffs), torch.zeros_like(ids_N)
    words = ClusteredIds.from_ids(ids_N, bounds, multiple)
    for cluster, (low, high) in enumerate(bounds):
        index, numbers, inside = words.select_cluster(cluster, bounds)
        inside = torch.ones_like(index, dtype=torch.bool) if inside is None else inside
        assert len(index.unique()) == len(index)
        assert len(index) % multiple == 0 or len(index) == len(ids_N)
        assert len(index) - inside.sum() < multiple
        assert torch.equal(numbers + low, ids_N[index].where(inside, low)) and (numbers < high - low).all()
        seen[index] += inside
    assert (seen == 1).all()


@given(cases(), st.integers(2, 9))
def test_words_of_other_clusters_change_no_loss_and_no_gradient(case, multiple):
    found = []
    for words_N in (case.words_N, ClusteredIds.from_ids(case.words_N, case.embedding.bounds, multiple)):
        h_ND = case.h_ND + case.embedding(words_N)
        nll_N = case.softmax(h_ND, words_N)
        (nll_N * torch.linspace(1, 2, len(nll_N))).sum().backward()
        found.append([h_ND, nll_N, *(parameter.grad for parameter in case.parameters.values())])
        for parameter in case.parameters.values():
            parameter.grad = None
    for expected, padded in zip(*found, strict=True):
        assert_close(padded.to_dense(), expected.to_dense(), 1e-12)

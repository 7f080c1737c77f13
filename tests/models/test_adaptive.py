"""Adaptive softmax is one distribution over the vocabulary, and adaptive embedding one lookup per word."""

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tbptt.models.vocabulary.adaptive import AdaptiveEmbedding, AdaptiveSoftmax
from tests.helpers import assert_close

D = 8


@dataclass
class Case:
    """An embedding and its softmax, random hidden states, and random words."""

    vocab_size: int
    cutoffs: list[int]
    embedding: AdaptiveEmbedding
    softmax: AdaptiveSoftmax
    h_ND: torch.Tensor
    words_N: torch.Tensor

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        return dict(nn.ModuleDict({"embedding": self.embedding, "softmax": self.softmax}).named_parameters())


@st.composite
def cases(draw, max_cutoffs: int = 3) -> Case:
    vocab_size = draw(st.integers(2, 25))
    cutoffs = sorted(draw(st.sets(st.integers(1, vocab_size - 1), max_size=max_cutoffs)))
    div_val = draw(st.integers(1, 3))
    least = div_val ** len(cutoffs)
    d_embed = draw(st.sampled_from([D, least, least + 3]).filter(lambda size: size >= least))
    tie_projs = draw(st.lists(st.booleans(), min_size=len(cutoffs) + 1, max_size=len(cutoffs) + 1))
    embedding = AdaptiveEmbedding(vocab_size, d_embed, D, cutoffs, div_val)
    softmax = AdaptiveSoftmax(embedding, D, draw(st.booleans()), tie_projs)
    n = draw(st.integers(0, 12))
    words = draw(st.lists(st.integers(0, vocab_size - 1), min_size=n, max_size=n))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    h_ND = torch.randn(n, D, generator=generator, dtype=torch.float64)
    case = Case(vocab_size, cutoffs, embedding.double(), softmax.double(), h_ND, torch.tensor(words, dtype=torch.int64))
    with torch.no_grad():
        for parameter in case.parameters.values():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return case


@given(cases())
def test_losses_are_the_gathered_log_probabilities(case):
    table_NV = case.softmax.log_probs(case.h_ND)
    assert table_NV.shape == (len(case.h_ND), case.vocab_size)
    assert_close(case.softmax(case.h_ND, case.words_N), -table_NV.gather(1, case.words_N[:, None])[:, 0], 1e-12)


@given(cases())
def test_probabilities_sum_to_one(case):
    total_N = case.softmax.log_probs(case.h_ND).exp().sum(-1)
    assert_close(total_N, torch.ones_like(total_N), 1e-12)


@given(cases(max_cutoffs=0))
def test_without_cutoffs_it_is_a_plain_softmax(case):
    weight_VE, bias_V = case.softmax.tables[0], case.softmax.biases[0]
    projected = case.h_ND @ case.softmax.projections[0] if len(case.softmax.projections) else case.h_ND
    expected = nn.functional.cross_entropy(projected @ weight_VE.T + bias_V, case.words_N, reduction="none")
    assert_close(case.softmax(case.h_ND, case.words_N), expected, 1e-12)


@given(cases())
def test_embedding_is_one_scaled_lookup_per_word(case):
    edges = [0, *case.cutoffs, case.vocab_size]
    expected = []
    for word in case.words_N.tolist():
        cluster = sum(word >= cutoff for cutoff in case.cutoffs)
        vector_E, projection = case.embedding.tables[cluster][word - edges[cluster]], case.embedding.projection(cluster)
        expected.append((vector_E if projection is None else projection @ vector_E) * D**0.5)
    assert_close(
        case.embedding(case.words_N), torch.stack(expected) if expected else torch.zeros_like(case.h_ND), 1e-12
    )


@given(cases())
def test_every_parameter_gets_a_gradient_whatever_the_words(case):
    loss = case.softmax(case.h_ND + case.embedding(case.words_N), case.words_N).sum()
    loss.backward()
    for name, parameter in case.parameters.items():
        assert parameter.grad is not None, f"{name} has no gradient"
        assert parameter.grad.isfinite().all()


@given(cases())
def test_tails_without_a_target_get_a_gradient_of_zero(case):
    case.softmax(case.h_ND, case.words_N).sum().backward()
    edges = [0, *case.cutoffs, case.vocab_size]
    for tail in range(1, len(edges) - 1):
        has_target = ((case.words_N >= edges[tail]) & (case.words_N < edges[tail + 1])).any()
        for parameter in (case.softmax.tables[tail], case.softmax.biases[tail]):
            # A tail of one word has probability 1, and no gradient either.
            assert bool(parameter.grad.any()) == (bool(has_target) and len(parameter) > 1)


@given(cases(), st.randoms(use_true_random=False))
def test_losses_come_in_the_order_of_the_tokens(case, random):
    order = torch.tensor(random.sample(range(len(case.h_ND)), len(case.h_ND)), dtype=torch.int64)
    shuffled = case.softmax(case.h_ND[order], case.words_N[order])
    assert_close(shuffled, case.softmax(case.h_ND, case.words_N)[order], 1e-12)


@pytest.mark.parametrize("tie_weight", [True, False])
@pytest.mark.parametrize("tie_projs", [[True, True], [False, True], [False, False]])
def test_ties_share_parameters_and_nothing_else_does(tie_weight, tie_projs):
    embedding = AdaptiveEmbedding(10, 6, D, [4], div_val=2)
    softmax = AdaptiveSoftmax(embedding, D, tie_weight, tie_projs)
    assert [a is b for a, b in zip(softmax.tables, embedding.tables)] == [tie_weight] * 2
    assert [a is b for a, b in zip(softmax.projections, embedding.projections)] == tie_projs

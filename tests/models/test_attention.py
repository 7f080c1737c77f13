"""Relative attention is the paper's formula, score(i, j) = ((q_i + u) . k_j + (q_i + v) . r_{i-j}) / sqrt(E)."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tbptt.models.attention.relative import (
    causal_mask,
    inverse_frequencies,
    key_distances,
    position_scores,
    relative_attention,
    sinusoid,
)
from tests.helpers import assert_close

LIKE = torch.zeros((), dtype=torch.float64)
SHAPES = st.fixed_dictionaries(
    {
        "B": st.integers(1, 3),
        "H": st.integers(1, 3),
        "T": st.integers(1, 6),
        "M": st.integers(0, 6),
        "E": st.integers(1, 5),
        "seed": st.integers(0, 1000),
    }
)


def draw_inputs(B, H, T, M, E, seed) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return {
        "q_BHTE": normal(B, H, T, E),
        "k_BHKE": normal(B, H, M + T, E),
        "v_BHKE": normal(B, H, M + T, E),
        "content_bias_HE": normal(H, E),
        "position_bias_HE": normal(H, E),
        "weight_DHE": normal(6, H, E),  # r = sinusoid @ weight
    }


def position_table(weight_DHE: torch.Tensor, n_keys: int, clamp_len: int) -> torch.Tensor:
    """r (K, H, E) from distance K-1 down to 0."""
    positions_KD = sinusoid(key_distances(n_keys, clamp_len, like=LIKE), inverse_frequencies(6).double())
    return torch.einsum("kd,dhe->khe", positions_KD, weight_DHE)


def naive_attention(q_BHTE, k_BHKE, v_BHKE, content_bias_HE, position_bias_HE, weight_DHE, clamp_len, window):
    """The formula, one query at a time, with r computed anew for every pair from its distance."""
    B, H, T, E = q_BHTE.shape
    K = k_BHKE.shape[2]
    y_BHTE = torch.zeros_like(q_BHTE)
    for b, h, t in [(b, h, t) for b in range(B) for h in range(H) for t in range(T)]:
        i, q_E, scores, seen = K - T + t, q_BHTE[b, h, t], [], []
        for j in range(i + 1):
            distance = min(i - j, clamp_len) if clamp_len > 0 else i - j
            if window is not None and i - j >= window:
                continue
            angles = [distance * frequency for frequency in inverse_frequencies(6).tolist()]
            position_D = torch.tensor([*map(math.sin, angles), *map(math.cos, angles)], dtype=torch.float64)
            r_E = position_D @ weight_DHE[:, h]
            content = (q_E + content_bias_HE[h]) @ k_BHKE[b, h, j]
            scores.append((content + (q_E + position_bias_HE[h]) @ r_E) / math.sqrt(E))
            seen.append(v_BHKE[b, h, j])
        y_BHTE[b, h, t] = torch.stack(scores).softmax(0) @ torch.stack(seen)
    return y_BHTE


@given(SHAPES)
def test_position_scores_are_products_with_the_embedding_of_the_distance(shape):
    inputs = draw_inputs(**shape)
    q_BHTE, T, K = inputs["q_BHTE"], shape["T"], shape["M"] + shape["T"]
    r_KHE = position_table(inputs["weight_DHE"], K, clamp_len=-1)
    scores_BHTK = position_scores(q_BHTE.transpose(0, 1), r_KHE).transpose(0, 1)
    for t in range(T):
        for j in range(K - T + t + 1):
            at_distance_HE = r_KHE[K - 1 - (K - T + t - j)]
            assert_close(scores_BHTK[:, :, t, j], (q_BHTE[:, :, t] * at_distance_HE).sum(-1), 1e-12)


@given(SHAPES, st.sampled_from([-1, 1, 2, 5]), st.one_of(st.none(), st.integers(1, 8)))
def test_relative_attention_is_the_formula(shape, clamp_len, window):
    inputs = draw_inputs(**shape)
    expected_BHTE = naive_attention(**inputs, clamp_len=clamp_len, window=window)
    T, K = shape["T"], shape["M"] + shape["T"]
    r_KHE = position_table(inputs.pop("weight_DHE"), K, clamp_len)
    mask_TK = causal_mask(T, K, window, LIKE)
    assert_close(relative_attention(**inputs, r_KHE=r_KHE, mask=mask_TK, dropout=0.0), expected_BHTE, 1e-12)


@pytest.mark.parametrize("window", [None, 3])
def test_gradients_of_relative_attention_are_those_of_finite_differences(window):
    inputs = draw_inputs(B=2, H=2, T=3, M=2, E=2, seed=0)
    r_KHE = position_table(inputs.pop("weight_DHE"), 5, clamp_len=3)
    inputs = {name: x.requires_grad_() for name, x in (inputs | {"r_KHE": r_KHE}).items()}
    mask_TK = causal_mask(3, 5, window, LIKE)

    def attend(*values):
        return relative_attention(**dict(zip(inputs, values)), mask=mask_TK, dropout=0.0)

    assert torch.autograd.gradcheck(attend, tuple(inputs.values()))


def test_dropout_of_attention_weights_keeps_their_mean():
    inputs = draw_inputs(B=1, H=1, T=1, M=3, E=2, seed=0)
    r_KHE = position_table(inputs.pop("weight_DHE"), 4, clamp_len=-1)
    many = {name: x.expand(20_000, *x.shape[1:]) if name.endswith(("TE", "KE")) else x for name, x in inputs.items()}
    torch.manual_seed(0)
    arguments = {"r_KHE": r_KHE, "mask": causal_mask(1, 4, None, LIKE)}
    dropped = relative_attention(**many, **arguments, dropout=0.5)
    plain = relative_attention(**inputs, **arguments, dropout=0.0)
    standard_error = dropped.std(0) / math.sqrt(len(dropped))
    assert (standard_error > 0).all()
    assert ((dropped.mean(0) - plain[0]).abs() < 4 * standard_error).all()


@given(st.integers(1, 8), st.integers(0, 8), st.one_of(st.none(), st.integers(1, 10)))
def test_a_query_sees_itself_and_what_is_less_than_a_window_before_it(T, M, window):
    seen_TK = causal_mask(T, M + T, window, LIKE) == 0
    for t in range(T):
        oldest = 0 if window is None else max(0, M + t - window + 1)
        assert seen_TK[t].nonzero().flatten().tolist() == list(range(oldest, M + t + 1))


@given(st.integers(1, 12), st.integers(-1, 15))
def test_distances_run_down_to_zero_and_are_capped(n_keys, clamp_len):
    cap = clamp_len if clamp_len > 0 else math.inf
    assert key_distances(n_keys, clamp_len, like=LIKE).tolist() == [min(d, cap) for d in range(n_keys - 1, -1, -1)]

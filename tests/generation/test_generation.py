"""What is generated is what the model says, token by token, from a state of constant size."""

from functools import cache

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tbptt.device import Precision
from tbptt.errors import UserError
from tbptt.generation.config import BeamConfig, SampleConfig
from tbptt.generation.continuation import beam_search, sample
from tbptt.generation.sampling import candidates, draw
from tbptt.models.protocol import map_state
from tests.helpers import assert_close
from tests.models.tiny import MIXERS, VOCABULARY, random_tokens, tiny_lstm, tiny_stack, tiny_txl

ADAPTIVE = {"cutoffs": [5, 12], "d_embed": 6, "div_val": 2}
MODELS = {
    "txl": lambda: tiny_txl(mem_len=100),  # longer than any text here: the whole past is seen
    "txl_window": lambda: tiny_txl(same_length=True, clamp_len=3, mem_len=5),
    "txl_adaptive": lambda: tiny_txl(same_length=True, **ADAPTIVE),
    "lstm": tiny_lstm,
    "stack": lambda: tiny_stack(layers=MIXERS),
    "lstm_adaptive": lambda: tiny_lstm(**ADAPTIVE),
}
build = cache(lambda name: MODELS[name]().eval())
EVERY_MODEL = pytest.mark.parametrize("name", MODELS)


def drawn(model, prompt_P, seed: int = 1, **settings) -> tuple[torch.Tensor, torch.Tensor]:
    """All tokens (B, L) of some samples, and their log-probabilities (B, L)."""
    tokens, log_probs = zip(*sample(model, prompt_P, SampleConfig(**settings), seed, 4, Precision.fp64))
    return torch.stack(tokens, dim=1), torch.stack(log_probs, dim=1)


def full_forward(model, prompt_P, tokens_BL) -> torch.Tensor:
    """The log-probabilities (B, L) of tokens after a prompt, from one pass over the whole."""
    text_BT = torch.cat([prompt_P.expand(len(tokens_BL), -1), tokens_BL], dim=1)
    log_probs_BTV, _ = model.log_probs(text_BT[:, :-1], model.initial_state(len(tokens_BL)))
    return log_probs_BTV[:, len(prompt_P) - 1 :].gather(2, tokens_BL[..., None]).squeeze(2)


@torch.no_grad()
@EVERY_MODEL
@given(st.integers(1, 12), st.integers(1, 3))
def test_samples_have_the_log_probabilities_of_the_full_forward(name, prompt_length, samples):
    model, prompt_P = build(name), random_tokens(prompt_length)
    tokens_BL, log_probs_BL = drawn(model, prompt_P, length=9, samples=samples, top_k=20)
    assert tokens_BL.shape == (samples, 9)
    assert_close(log_probs_BL, full_forward(model, prompt_P, tokens_BL), 1e-12)


@torch.no_grad()
@EVERY_MODEL
@given(st.integers(1, 12), st.integers(1, 5))
def test_beams_have_the_log_probabilities_of_the_full_forward(name, prompt_length, beams):
    model, prompt_P = build(name), random_tokens(prompt_length)
    tokens_BL, total_B = beam_search(model, prompt_P, BeamConfig(length=7, beams=beams), 4, Precision.fp64)
    assert tokens_BL.shape == (beams, 7) and len({tuple(row) for row in tokens_BL.tolist()}) == beams
    assert_close(total_B, full_forward(model, prompt_P, tokens_BL).sum(1), 1e-12)
    assert (total_B.diff() <= 0).all()


@torch.no_grad()
@EVERY_MODEL
def test_with_a_beam_for_every_word_the_search_is_exhaustive(name):
    model, prompt_P = build(name), random_tokens(5)
    every_NL = torch.cartesian_prod(torch.arange(VOCABULARY), torch.arange(VOCABULARY))
    best = full_forward(model, prompt_P, every_NL).sum(1).topk(VOCABULARY)
    tokens_BL, total_B = beam_search(model, prompt_P, BeamConfig(length=2, beams=VOCABULARY), 4, Precision.fp64)
    assert_close(total_B, best.values, 1e-12)
    assert torch.equal(tokens_BL, every_NL[best.indices])


@EVERY_MODEL
def test_one_beam_is_the_walk_of_no_chance(name):
    model, prompt_P = build(name), random_tokens(5)
    tokens_BL, _ = beam_search(model, prompt_P, BeamConfig(length=12, beams=1), 4, Precision.fp64)
    assert torch.equal(tokens_BL, drawn(model, prompt_P, length=12, temperature=0)[0])


@pytest.mark.parametrize("name", ["txl_window", "lstm"])
def test_the_prompt_is_read_once_in_segments_and_then_each_token_once(name, monkeypatch):
    model, shapes, sizes = MODELS[name]().eval(), [], []
    hidden = model.hidden

    def watched(tokens_BT, state):
        shapes.append(tuple(tokens_BT.shape))
        h_BTD, state = hidden(tokens_BT, state)
        map_state(lambda x: sizes.append(x.numel()) or x, state)
        return h_BTD, state

    monkeypatch.setattr(model, "hidden", watched)
    drawn(model, random_tokens(11), length=40, samples=2)
    assert shapes == [(1, 4), (1, 4), (1, 2), *[(2, 1)] * 40]
    assert len(set(sizes[-40:])) == 1, "the state grows"


@EVERY_MODEL
def test_a_sample_follows_from_seed_and_number_not_from_its_neighbours(name):
    model, prompt_P = build(name), random_tokens(3)
    one, four = (drawn(model, prompt_P, length=20, samples=samples)[0] for samples in (1, 4))
    assert torch.equal(four[:1], one) and len({tuple(row) for row in four.tolist()}) == 4
    other = drawn(model, prompt_P, seed=2, length=20, samples=4)[0]
    assert not {tuple(row) for row in other.tolist()} & {tuple(row) for row in four.tolist()}


def test_length_null_never_ends():
    stream = sample(build("txl_window"), random_tokens(2), SampleConfig(length=None), 1, 4, Precision.fp64)
    assert sum(1 for _ in zip(range(700), stream)) == 700


tables = st.builds(
    lambda scale, rows: (scale * torch.tensor(rows, dtype=torch.float64)).log_softmax(-1),
    st.floats(0.1, 5),
    st.lists(st.lists(st.floats(-3, 3), min_size=7, max_size=7), min_size=1, max_size=3),
)


@given(tables, st.floats(0.05, 4), st.integers(1, 9), st.floats(0.01, 1))
def test_candidates_are_the_fewest_of_the_likeliest_in_proportion(log_probs_BV, temperature, top_k, top_p):
    config = SampleConfig(temperature=temperature, top_k=top_k, top_p=top_p)
    for log_probs_V, tokens_K, probs_K in zip(log_probs_BV, *candidates(log_probs_BV, config)):
        flattened_V = (log_probs_V / temperature).softmax(0)
        ranked_K = flattened_V.sort(descending=True).values[:top_k]
        ranked_K = ranked_K / ranked_K.sum()
        kept = int((probs_K > 0).sum())
        assert_close(flattened_V[tokens_K].sort(descending=True).values, flattened_V[tokens_K], 0)
        assert ranked_K[:kept].sum() >= top_p - 1e-9, "too few"
        assert kept == 1 or ranked_K[: kept - 1].sum() < top_p + 1e-9, "more than are needed"
        assert_close(probs_K[:kept], ranked_K[:kept] / ranked_K[:kept].sum(), 1e-9)
        assert abs(probs_K.sum() - 1) < 1e-12


@given(tables)
def test_without_settings_candidates_are_the_models_own_distribution(log_probs_BV):
    tokens_BK, probs_BK = candidates(log_probs_BV, SampleConfig())
    assert_close(torch.zeros_like(probs_BK).scatter(1, tokens_BK, probs_BK), log_probs_BV.exp(), 1e-12)


@given(tables, st.floats(0.2, 1))
def test_tokens_are_drawn_in_proportion_to_their_probability(log_probs_BV, top_p):
    tokens_BK, probs_BK = candidates(log_probs_BV[:1], SampleConfig(top_p=top_p))
    n = 1000
    uniform_N = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    found_N = draw(tokens_BK.expand(n, -1), probs_BK.expand(n, -1), uniform_N)
    shares_K = torch.stack([(found_N == token).double().mean() for token in tokens_BK[0]])
    assert_close(shares_K, probs_BK[0], 2 / n)


@pytest.mark.parametrize("uniform", [0.0, 1 - 2**-53])
def test_what_is_cut_off_is_never_drawn(uniform):
    tokens_BK, probs_BK = torch.tensor([[4, 2, 7]]), torch.tensor([[0.7, 0.3, 0.0]], dtype=torch.float64)
    token = draw(tokens_BK, probs_BK, torch.tensor([uniform], dtype=torch.float64)).item()
    assert token == (2 if uniform == 0 else 4)


def test_a_prompt_file_is_read_as_it_stands(tmp_path):
    (tmp_path / "prompt").write_bytes("é\r\n".encode())
    assert SampleConfig(prompt_file=str(tmp_path / "prompt")).read_prompt(None) == "é\r\n"
    (tmp_path / "prompt").write_bytes(b"a\xff")
    with pytest.raises(UserError, match=r"not UTF-8 text .* at byte 1"):
        SampleConfig(prompt_file=str(tmp_path / "prompt")).read_prompt(None)


@torch.no_grad()
@pytest.mark.parametrize("build", [tiny_lstm, tiny_txl, tiny_stack])
def test_a_start_that_was_generated_empties_the_state(build):
    """What follows it is what follows a prompt of the start alone."""
    model, start = build().eval(), 3
    prompt_P = torch.tensor([5, 9, 1, start])
    config = SampleConfig(length=12, temperature=0.0)

    def log_probs(prompt_P: torch.Tensor, start: int | None) -> torch.Tensor:
        return torch.cat([log_prob for _, log_prob in sample(model, prompt_P, config, 1, 4, Precision.fp64, start)])

    alone = log_probs(prompt_P[-1:], start)
    assert_close(log_probs(prompt_P, start), alone, 1e-12)
    assert (log_probs(prompt_P, None) - alone).abs().max() > 1e-6

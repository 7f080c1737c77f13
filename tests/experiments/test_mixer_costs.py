"""What mixers cost: a row for each, memory counted to the byte, and exponents of what grows by a known law."""

import json

import pytest
import torch

from experiments import growth, mixers
from experiments.growth import LiveBytes, evaluations, exponent, updates


def test_every_mixer_has_a_row_beside_the_lstm():
    rows = mixers.measure(mixers.mixer_names(), lanes=1, length=3, width=16, turns=1)
    assert {row["mixer"] for row in rows} == set(mixers.mixer_names())
    lstm = next(row for row in rows if row["mixer"] == "lstm")
    assert lstm["times_lstm"] == 1 and lstm["parameters"] == 4 * 16 * (16 + 16 + 2)
    assert all(row["ms"] > 0 and row["tokens_per_second"] > 0 for row in rows)


def test_memory_is_what_lives_at_once():
    x = torch.ones(1000)
    with LiveBytes() as memory:
        y = x * 2
        z = y[:10]  # a view holds the whole of it
        del y
        assert (memory.now, memory.peak) == (4000, 4000)
        torch.cat([x, x]).add_(1)
        assert (memory.now, memory.peak) == (4000, 12000)
        del z
    assert (memory.now, memory.peak) == (0, 12000)


def test_memory_counts_what_a_gradient_needs():
    x = torch.ones(1000, requires_grad=True)
    with LiveBytes() as memory:
        loss = x.exp().sum()
        assert memory.now == 4004
        loss.backward()
        del loss
        assert memory.now == 4000  # the gradient


@pytest.mark.parametrize("power", [1, 1.5, 2])
def test_the_exponent_is_that_of_the_longer_half(power):
    lengths = [1, 2, 4, 8, 16, 32]
    assert exponent(lengths, [100, 50, *(3 * length**power for length in lengths[2:])]) == pytest.approx(power)


def test_costs_are_measured_by_length_told_and_drawn(tmp_path):
    names = ["gla", "lstm"]
    trained, evaluated = updates(names, [8, 16], turns=1), evaluations(names, [128, 512])
    assert [(row["mixer"], row["length"]) for row in trained] == [("gla", 8), ("gla", 16), ("lstm", 8), ("lstm", 16)]
    told = growth.table(trained, "us_per_token", ".1f", cost="seconds").splitlines()
    assert len(told) == 4 and all(line.count("|") == told[0].count("|") for line in told)
    growth.draw(trained, evaluated, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads(json.dumps(trained + evaluated))


def test_an_evaluation_takes_no_more_memory_for_a_longer_text():
    short, long = evaluations(["gated_delta"], [256, 1024])
    assert 0 < long["peak_bytes"] <= 1.01 * short["peak_bytes"]

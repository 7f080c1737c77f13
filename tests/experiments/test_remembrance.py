"""What tokens read long before still change: nothing in a model without memory, something within its segment."""

import pytest
import torch

from experiments.length_generalisation import CONTINUED, MODELS, WAYS
from experiments.remembrance import distances, draw, powers_of_two, prediction, table, texts_before
from tests.models.tiny import random_stream, tiny_lstm, tiny_stack, tiny_txl


def test_texts_end_right_before_their_places():
    stream = random_stream(100)
    text_NL = texts_before(stream, 5, 16)
    assert torch.equal(text_NL[0], torch.from_numpy(stream[:16].astype("int64")))
    assert torch.equal(text_NL[-1], torch.from_numpy(stream[-17:-1].astype("int64")))


@pytest.mark.parametrize("tiny", [tiny_lstm, tiny_stack, tiny_txl])
def test_the_distance_is_that_of_two_predictions(tiny):
    model, text_NL = tiny().eval(), texts_before(random_stream(200), 3, 32)
    found = distances(model, text_NL, powers_of_two(33), 4)
    assert len(found) == 6 and all(0 < distance < 1 for distance in found[:3])
    assert found[-1] == 0, "all of the text"
    part_W, whole_W = prediction(model, text_NL[:1, -4:], 4)[0], prediction(model, text_NL[:1], 4)[0]
    assert whole_W.sum() == pytest.approx(1)
    expected = torch.clamp(whole_W - part_W, min=0).sum().item()  # the mass that would have to be moved
    assert distances(model, text_NL[:1], [4], 4) == [pytest.approx(expected)]


def test_a_model_without_memory_remembers_nothing_of_earlier_segments():
    model, text_NL = tiny_txl(mem_len=0).eval(), texts_before(random_stream(200), 3, 32)
    within, *whole = distances(model, text_NL, [2, 4, 16], 4)
    assert whole == [0, 0] and within > 1e-6


def test_the_table_and_the_figure(tmp_path):
    rows = [
        {
            "model": model,
            "way": way,
            "first": length - 1,
            "last": length - 1,
            "distance_1": 1 / length,
            "distance_2": 0.5,
        }
        for model in MODELS
        for way in WAYS | CONTINUED
        for length in powers_of_two(128)
    ]
    lines = table(rows, [1, 2]).splitlines()
    assert lines[0] == "| model | trained by | after 16 | after 64 |"
    assert len(lines) == 2 + len(MODELS) * len(WAYS | CONTINUED)
    assert "0.2812 (0.0625 to 0.5000)" in lines[2]
    draw(rows, [1, 2], tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")

"""The comparison with another library's recurrent models: ours are built in its shape, and wrong words are refused."""

import subprocess
import sys

import pytest

from experiments.recurrent_peer import LAYERS, LENGTH, OURS, SHAPE, WIDTH, WORDS, our_parameters
from tests.helpers import composed


@pytest.mark.parametrize("name", OURS)
def test_our_models_have_the_shape_that_is_compared(name):
    model = composed(*OURS[name], *SHAPE).model
    assert (model.n_layer, model.d_model, model.tgt_len) == (LAYERS, WIDTH, LENGTH)
    assert our_parameters(name) > WORDS * WIDTH


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "the first argument must be a Python interpreter"),
        (["no/such/python"], "the first argument must be a Python interpreter"),
        ([sys.executable, "rwkv7"], "rwkv7 is none of mamba2, gated_delta"),
    ],
)
def test_wrong_words_end_with_a_sentence(words, told):
    result = subprocess.run(
        [sys.executable, "-m", "experiments.recurrent_peer", *words], capture_output=True, text=True
    )
    assert result.returncode == 2 and told in result.stderr

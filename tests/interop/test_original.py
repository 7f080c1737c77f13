"""Weights and arguments of the original that do not fit each other are refused, not half used."""

import numpy as np
import pytest

from tbptt.errors import UserError
from tbptt.interop import original
from tests.models.recorded import GOLDEN, MANIFEST

INFO = MANIFEST["models"]["c_adaptive_div2_proj"]


def weights() -> dict[str, np.ndarray]:
    return dict(np.load(GOLDEN / INFO["weights"]))


@pytest.mark.parametrize(
    "change, words",
    [
        ({"clamplen": 5}, "no argument 'clamplen'"),
        ({"ext_len": 8}, "ext_len=8"),
        ({"attn_type": 2}, "attn_type=2"),
        ({"n_layer": 3}, "lack 'layers.2"),
        ({"n_layer": 1}, "do not exist in this configuration"),
        ({"d_inner": 65}, "CoreNet.0.weight"),
        ({"cutoffs": [20, 40]}, "emb_layers.2.weight"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(change, words):
    with pytest.raises(UserError, match=words):
        original.build(weights(), INFO["config"] | change)


def test_tied_weights_that_differ_are_refused():
    changed = weights()
    changed["crit.out_layers.1.weight"] = changed["crit.out_layers.1.weight"] + 1
    with pytest.raises(UserError, match=r"emb_layers\.1\.weight and crit\.out_layers\.1\.weight differ, but"):
        original.build(changed, INFO["config"])

"""Exported directories have the losses here that the classes of transformers and flash-linear-attention compute."""

import pytest
import torch

from tbptt.interop import hf
from tbptt.interop.families import FAMILIES
from tests.golden_exports import MODELS, OF_FLA, TOKENS, digest, exported, recorded
from tests.models.mixers.recorded import assert_agrees
from tests.models.tiny import run_segments


@pytest.mark.parametrize("name", MODELS)
def test_the_losses_are_those_that_were_recorded_of_the_same_bytes(tmp_path, name):
    """Where those packages are not installed, this is what is known of their classes."""
    sha256, nll_BL = recorded(name)
    assert digest(exported(name, tmp_path)) == sha256
    model = hf.build(tmp_path).double()
    with torch.no_grad():
        found, _ = run_segments(model, TOKENS[:, :-1], TOKENS[:, 1:], [7, 1, 16])
    assert_agrees(found, nll_BL, 1e-10, name)


@pytest.mark.parametrize("name", MODELS)
def test_the_classes_themselves_compute_what_was_recorded(tmp_path, name):
    """Runs where transformers, and for its models flash-linear-attention, are installed."""
    pytest.importorskip("transformers")
    if name in OF_FLA:
        pytest.importorskip("fla")
    from tests.golden_exports.elsewhere import losses

    assert_agrees(losses(name, exported(name, tmp_path)), recorded(name)[1], 1e-10, name)


def test_all_model_types_that_are_exported_are_tested():
    assert MODELS.keys() == FAMILIES.keys()

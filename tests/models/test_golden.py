"""Transformer-XL equals the original code: losses, memories, hidden states, log-probabilities and gradients."""

from functools import cache

import numpy as np
import pytest
import torch

from tests.helpers import assert_close, assert_relatively_close
from tests.models.recorded import GOLDEN, MANIFEST, golden_model, under_original_names
from tests.models.tiny import run_segments

MODELS = sorted(MANIFEST["models"])
SETTINGS = sorted(MANIFEST["settings"])


@cache
def recorded(file: str) -> dict[str, torch.Tensor]:
    with np.load(GOLDEN / file) as arrays:
        return {name: torch.from_numpy(np.asarray(arrays[name])) for name in arrays.files}


def gradient_settings(model_name: str) -> list[str]:
    return [name.split("/")[0] for name in recorded(f"{model_name}.grads.npz") if name.endswith("/loss64")]


def set_up(model_name: str, setting: str, dtype: torch.dtype):
    """The model in this setting, its tokens and targets (B, L), and the segment lengths."""
    model, settings = golden_model(model_name, dtype), MANIFEST["settings"][setting]
    model.set_context(**{key: settings[key] for key in ("mem_len", "clamp_len", "same_length")})
    tokens_BN = recorded(f"{model_name}.expected.npz")["tokens"].T
    return model.eval(), tokens_BN[:, :-1], tokens_BN[:, 1:], settings["segment_lengths"]


@pytest.mark.parametrize("model_name", MODELS)
def test_number_of_parameters_is_the_originals(model_name):
    model = golden_model(model_name, torch.float32)
    assert sum(parameter.numel() for parameter in model.parameters()) == MANIFEST["models"][model_name]["n_params"]


@torch.no_grad()
@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("model_name", MODELS)
def test_float64_losses_and_final_memories_are_the_originals(model_name, setting):
    model, tokens_BL, targets_BL, lengths = set_up(model_name, setting, torch.float64)
    expected = recorded(f"{model_name}.expected.npz")
    nll_BL, memories = run_segments(model, tokens_BL, targets_BL, lengths)
    assert_close(nll_BL.T, expected[f"{setting}/nll64"], 1e-10)
    assert len(memories) == MANIFEST["models"][model_name]["config"]["n_layer"]
    for layer, memory_BMD in enumerate(memories):
        if memory_BMD.shape[1]:
            assert_close(memory_BMD.transpose(0, 1), expected[f"{setting}/mems64_final/{layer}"], 1e-10)
        else:
            assert MANIFEST["settings"][setting]["mem_len"] == 0


@torch.no_grad()
@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("model_name", MODELS)
def test_float32_losses_are_the_originals(model_name, setting):
    model, tokens_BL, targets_BL, lengths = set_up(model_name, setting, torch.float32)
    nll_BL, _ = run_segments(model, tokens_BL, targets_BL, lengths)
    assert_close(nll_BL.T, recorded(f"{model_name}.expected.npz")[f"{setting}/nll32"], 2e-5)


@torch.no_grad()
@pytest.mark.parametrize("model_name", MODELS)
def test_hidden_states_and_log_probabilities_are_the_originals(model_name):
    model, tokens_BL, targets_BL, lengths = set_up(model_name, "t8_m8", torch.float64)
    expected = recorded(f"{model_name}.expected.npz")
    *before, last = lengths
    _, state = run_segments(model, tokens_BL, targets_BL, before)
    tokens_BT = tokens_BL[:, sum(before) : sum(before) + last]
    h_BTD, _ = model.hidden(tokens_BT, state)
    assert_close(h_BTD.transpose(0, 1), expected["t8_m8/hidden64_seg5"], 1e-10)
    log_probs_BTV, _ = model.log_probs(tokens_BT, state)
    assert_close(log_probs_BTV[:, -1], expected["t8_m8/logprob64_last"], 1e-10)


@pytest.mark.parametrize(
    "model_name, setting", [(model_name, setting) for model_name in MODELS for setting in gradient_settings(model_name)]
)
def test_gradients_of_the_second_segment_are_the_originals(model_name, setting):
    model, tokens_BL, targets_BL, (first, second, *_) = set_up(model_name, setting, torch.float64)
    expected = recorded(f"{model_name}.grads.npz")
    model.train()
    with torch.no_grad():
        _, state = run_segments(model, tokens_BL, targets_BL, [first])
    part = slice(first, first + second)
    nll_BT, _ = model(tokens_BL[:, part], targets_BL[:, part], state)
    loss = nll_BT.mean()
    loss.backward()
    assert_close(loss.detach(), expected[f"{setting}/loss64"], 1e-10)

    prefix = f"{setting}/grad64/"
    gradients = {name.removeprefix(prefix): array for name, array in expected.items() if name.startswith(prefix)}
    ours = under_original_names(model, {name: p.grad for name, p in model.named_parameters()}, gradients)
    for name, gradient in gradients.items():
        assert gradient.norm() > 0, f"the record of {name} would be met by any zero"
        assert_relatively_close(ours[name], gradient, 1e-9)

"""Numbers recorded from reference implementations of recurrent layers (tests/golden_mixers/README.md)."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tbptt.models.documents import tokens_since_start
from tbptt.models.protocol import State

GOLDEN = Path(__file__).parents[2] / "golden_mixers"


def load(name: str) -> dict[str, Tensor]:
    return {key: torch.from_numpy(np.asarray(value)) for key, value in np.load(GOLDEN / f"{name}.npz").items()}


def under(arrays: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The arrays whose names begin with the prefix, without it."""
    return {key.removeprefix(prefix): value for key, value in arrays.items() if key.startswith(prefix)}


def cases(name: str) -> list[str]:
    return sorted({key.split("/")[0] for key in load(name)})


def assert_agrees(ours: Tensor, recorded: Tensor, tolerance: float, what: str) -> None:
    """No entry further apart than `tolerance` times the largest absolute value of the array."""
    assert ours.shape == recorded.shape, what
    error = (ours.detach() - recorded).abs().max().item() if recorded.numel() else 0.0
    scale = max(recorded.abs().max().item(), 1e-300)
    assert error <= tolerance * scale, f"{what}: {error / scale:.1e}"


def assert_operation_agrees(
    arrays: dict[str, Tensor], run: Callable[[dict[str, Tensor]], dict[str, Tensor]], outputs: float, gradients: float
) -> None:
    """`run` maps the inputs of one case to its outputs: they, and the gradients of the loss, are as recorded."""
    inputs = {
        key: value.clone().requires_grad_() for key, value in under(arrays, "in/").items() if value.is_floating_point()
    }
    found, weights = run(inputs), under(arrays, "weight/")
    for key in weights:
        assert_agrees(found[key], arrays[f"out/{key}"], outputs, key)
    loss = sum((weights[key] * found[key]).sum() for key in weights)
    wanted = under(arrays, "grad/")
    for key, gradient in zip(wanted, torch.autograd.grad(loss, [inputs[key] for key in wanted])):
        assert_agrees(gradient, wanted[key], gradients, f"gradient of {key}")


def assert_layer_agrees(
    mixer: Any,
    name: str,
    parameters: Callable[[dict[str, Tensor]], dict[str, Tensor]],
    state_of: Callable[[State], dict[str, Tensor]],
) -> None:
    """With the recorded parameters a mixer, or a block, has the recorded outputs, states and gradients, in any pieces.

    So have documents in one lane, wherever it is cut. `parameters` arranges arrays under the reference's names (values,
    or gradients of the loss) under ours; `state_of` gives our state under the reference's names.
    """
    arrays = load(name)
    mixer.double().load_state_dict(parameters(under(arrays, "params/")))
    cuts = [int(cut) for cut in arrays["pieces/cuts"]]
    for ends in ([cuts[-1]], cuts, list(range(1, cuts[-1] + 1))):
        _assert_pieces_agree(mixer, arrays, ends, parameters, state_of)
    if documents := under(arrays, "documents/"):
        T = documents["in/first"].shape[1]
        starts = documents["in/first"].any(0).nonzero().flatten()
        for cuts in ([], starts, starts - 1, starts + 1):
            ends = sorted({*(int(cut) for cut in cuts if 0 < cut < T), T})
            _assert_pieces_agree(mixer, documents, ends, parameters, state_of)


def _assert_pieces_agree(mixer: Any, arrays: dict[str, Tensor], ends: list[int], parameters, state_of) -> None:
    x, starts_BT = arrays["in/x"].clone().requires_grad_(), arrays.get("in/first")
    state, outputs, start = mixer.initial_state(len(x)), [], 0
    for end in ends:
        since_BT = None if starts_BT is None else tokens_since_start(starts_BT[:, start:end])
        y, state = mixer(x[:, start:end], state, since_BT)
        outputs.append(y)
        start = end
        recorded = under(arrays, f"pieces/{end}/") or (under(arrays, "out/") if end == x.shape[1] else {})
        if recorded:
            _assert_states_agree(state, state_of(state), recorded, end)
    y = torch.cat(outputs, dim=1)
    assert_agrees(y, arrays["out/y"], 1e-10, f"outputs in {len(ends)} pieces")
    loss, named = (y * arrays["weight/y"]).sum(), dict(mixer.named_parameters())
    gradients = torch.autograd.grad(loss, [x, *named.values()])
    assert_agrees(gradients[0], arrays["grad/x"], 1e-8, "gradient of x")
    wanted = parameters(under(arrays, "grad/params/"))
    for key, gradient in zip(named, gradients[1:]):
        assert_agrees(gradient, wanted[key], 1e-8, f"gradient of {key} in {len(ends)} pieces")


def _assert_states_agree(state: State, named: dict[str, Tensor], recorded: dict[str, Tensor], end: int) -> None:
    for key, value in _without_gauge(named).items():
        assert_agrees(value, _without_gauge(recorded)[key], 1e-10, f"{key} after {end}")
    if "past" in state:
        past, theirs = state["past"], recorded["conv_state"]
        theirs = theirs if theirs.shape[2] == past.shape[2] else theirs.transpose(1, 2)
        assert_agrees(past, theirs[:, -past.shape[1] :], 1e-10, f"past inputs after {end}")


def _without_gauge(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """C, c and n times e^m, where the state has an m: they alone depend on the path of m."""
    if "m" not in state:
        return state
    m = state["m"]
    scaled = {
        key: state[key] * m.view(*m.shape, *[1] * (state[key].dim() - m.dim())).exp() for key in "Ccn" if key in state
    }
    return state | scaled

"""Another system's Adam: its state, converted to one over our parameters, and its settings."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tbptt.errors import UserError
from tbptt.interop import original
from tbptt.interop.foreign import ForeignAdam, ForeignModel
from tbptt.interop.pickles import plain
from tbptt.models.transformer_xl import TransformerXL

MOMENTS = ("exp_avg", "exp_avg_sq")
SETTINGS = ("betas", "eps", "weight_decay")
CONVERSION_ERRORS = (KeyError, TypeError, AttributeError, RuntimeError, IndexError, ValueError, UserError)


def convert(model: TransformerXL, foreign: ForeignModel) -> tuple[dict[str, Any] | None, list[str]]:
    """The state of an Adam over our parameters, None if it cannot be converted; and notes on what was not.

    A parameter without an entry (torch makes it with the parameter's first gradient) gets zeros, as it has there.
    """
    assert foreign.adam is not None
    try:
        shapes = _shapes(model, foreign)
        entries = _by_name(foreign.adam.state_dict, shapes, foreign.step)
        absent = [name for name, entry in entries.items() if not entry]
        if len(absent) == len(entries):
            return None, ["its optimizer state is empty: training starts with a new one"]
        if not all(float(entry["step"]) for entry in entries.values() if entry):
            return None, ["its optimizer state tells no step, without which its moments cannot be used"]
        values = {
            key: {n: e[key].reshape(shapes[n]) if e else torch.zeros(shapes[n]) for n, e in entries.items()}
            for key in MOMENTS
        }
        # A constant tensor per parameter, so that parameters that are cut or put together here take it along.
        steps = {n: torch.tensor(float(e["step"]) if e else 0.0).expand(shapes[n]) for n, e in entries.items()}
        converted = {
            key: original.convert_parameters(model, foreign.into_original(each))
            for key, each in (values | {"step": steps}).items()
        }
    except CONVERSION_ERRORS:
        return None, ["its optimizer state does not match its weights and is not imported"]
    state = {}
    for index, (name, _) in enumerate(model.named_parameters()):
        state[index] = {key: converted[key][name].float().contiguous() for key in MOMENTS}
        state[index]["step"] = converted["step"][name].max().clone()
    few = f"{', '.join(absent[:3])}{f' and {len(absent) - 3} more' if len(absent) > 3 else ''}"
    notes = [f"its Adam has no state yet for {few}: there it starts from zeros"] if absent else []
    return {"state": state}, notes


def last_step(adam: ForeignAdam) -> int:
    """The updates made, as far as the state tells: those of the parameter with the most. 0 if it does not tell."""
    try:
        return max(int(entry["step"]) for entry in adam.state_dict["state"].values() if "step" in entry)
    except CONVERSION_ERRORS:
        return 0


def settings(adam: ForeignAdam) -> tuple[list[str], list[str]]:
    """The overrides that give our optimizer these settings, and notes on them."""
    groups, name = _groups(adam.state_dict), "adam"
    group = groups[0] if groups else {}
    values = {key: group.get(key, adam.settings.get(key)) for key in SETTINGS}
    betas, eps, decay = _pair(values["betas"]), _number(values["eps"]), _number(values["weight_decay"])
    known = {"betas": betas and str(betas).replace(" ", ""), "eps": eps}
    overrides = [f"optimizer.{key}={value}" for key, value in known.items() if value is not None]
    descriptions = [override.removeprefix("optimizer.") for override in overrides]
    if (rate := _number(group.get("lr"))) is not None:
        descriptions.append(
            f"a learning rate of {rate:g} when it was saved (its schedule is not imported: set optimizer.lr)"
        )
    notes = [f"its Adam had {', '.join(descriptions)}"] if descriptions else []
    if decay and (adam.decoupled or group.get("decoupled_weight_decay")):
        name, overrides = "adamw", [*overrides, f"optimizer.weight_decay={decay}", "optimizer.decay=all"]
        notes.append(f"its weight_decay={decay} is decoupled: that is optimizer=adamw, which takes Adam's state")
    elif decay:
        notes.append(
            f"its weight_decay={decay} is L2, added to the gradient before Adam's moments: optimizer=adam has none and "
            "optimizer=adamw a decoupled one, so that training goes on without it"
        )
    if any(group.get(key) != other.get(key) for other in groups for key in SETTINGS):
        notes.append("its parameter groups have settings of their own, and only those of the first are named")
    if group.get("amsgrad"):
        notes.append("its Adam was amsgrad, which does not exist here: training goes on with plain Adam")
    return [f"optimizer={name}", *overrides], notes


def _shapes(model: TransformerXL, foreign: ForeignModel) -> dict[str, torch.Size]:
    """The shapes of the source's parameters in its order, tied ones at their first name."""
    duplicates = original.tied_names(model) | original.BUFFERS
    originals = foreign.into_original(foreign.weights)
    return {
        name: value.shape
        for (name, value), original_name in zip(foreign.weights.items(), originals)
        if original_name not in duplicates
    }


def _by_name(adam: Any, shapes: Mapping[str, torch.Size], step: int) -> dict[str, dict[str, Any]]:
    """Each parameter's entry of the state dict with its step, {} if it has none. ValueError if the sizes do not match.

    Apex keeps the step in the parameter group. fairseq's fp16 optimizer has one flat vector of all parameters.
    """
    entries = []
    for group in adam["param_groups"]:
        for index in group["params"]:
            entry = adam["state"].get(index)
            entries.append({"step": group.get("step", step)} | entry if entry else {})
    if len(entries) == 1 < len(shapes) and entries[0]:
        sizes = [shape.numel() for shape in shapes.values()]
        parts: dict[str, tuple[Tensor, ...]] = {key: entries[0][key].split(sizes) for key in MOMENTS}
        entries = [entries[0] | {key: parts[key][i] for key in MOMENTS} for i in range(len(sizes))]
    if len(entries) != len(shapes):
        raise ValueError(f"{len(entries)} entries for {len(shapes)} parameters")
    return dict(zip(shapes, entries))


def _groups(state_dict: Any) -> list[Mapping[str, Any]]:
    groups = state_dict.get("param_groups") if isinstance(state_dict, dict) else None
    return [group for group in groups if isinstance(group, dict)] if isinstance(groups, list) else []


def _number(value: Any) -> float | None:
    return value if isinstance(value, int | float) else None


def _pair(value: Any) -> list[float] | None:
    """Adam's betas, which some settings hold as text. None if they are not two numbers."""
    try:
        pair = ast.literal_eval(value) if isinstance(value, str) else plain(value)
        first, second = pair
        return [float(first), float(second)]
    except (ValueError, TypeError, SyntaxError):
        return None

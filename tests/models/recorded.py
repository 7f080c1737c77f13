"""The recorded numbers of the original code: its weights as our models, ours under its names."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tbptt.interop import original
from tbptt.models.transformer_xl import TransformerXL

GOLDEN = Path(__file__).parents[1] / "golden"
MANIFEST = json.loads((GOLDEN / "manifest.json").read_text())


def golden_model(name: str, dtype: torch.dtype) -> TransformerXL:
    info = MANIFEST["models"][name]
    return original.build(dict(np.load(GOLDEN / info["weights"])), info["config"]).to(dtype)


def under_original_names(
    model: TransformerXL, values: Mapping[str, Tensor], recorded: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Values of our parameters put together as `recorded` has them; every element of it is given exactly once."""
    together = {name: torch.full_like(array, torch.nan) for name, array in recorded.items()}
    for parameter_name, places in original.correspondence(model).items():
        name, rows = next(place for place in places if place[0] in recorded)
        part = together[name] if rows is None else together[name][rows]
        assert part.isnan().all(), f"{parameter_name} gives parts of {name} that another parameter gave"
        assert part.shape == values[parameter_name].shape
        part.copy_(values[parameter_name])
    for name, array in together.items():
        assert not array.isnan().any(), f"no parameter gives all of {name}"
    return together

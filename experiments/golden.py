"""How far the models are from the numbers recorded from the original's code: the largest error of each model.

    python -m experiments.golden

Over all 13 settings of segment, memory and clamp lengths in tests/golden: losses, final memories, hidden states and
log-probabilities in float64, losses in float32. (Gradients and training trajectories: tests/models/test_golden.py and
tests/training/test_trajectories.py.)
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tbptt.interop import original
from tbptt.models.transformer_xl import TransformerXL

GOLDEN = Path(__file__).resolve().parents[1] / "tests/golden"


def largest(*pairs: tuple[Tensor, np.ndarray]) -> float:
    return max((np.abs(ours.numpy() - theirs).max() for ours, theirs in pairs if theirs.size), default=0.0)


@torch.no_grad()
def errors(model: TransformerXL, recorded: dict[str, np.ndarray], name: str, setting: dict, bits: int) -> dict:
    """The largest error of the losses, and in float64 of everything else that was recorded for this setting."""
    model.set_context(**{key: setting[key] for key in ("mem_len", "clamp_len", "same_length")})
    tokens_BL, start = torch.from_numpy(recorded["tokens"]).T, 0
    state, found = model.initial_state(len(tokens_BL)), {"losses": 0.0}
    for length in setting["segment_lengths"]:
        before, part = state, slice(start, start + length)
        nll_BT, state = model(tokens_BL[:, part], tokens_BL[:, start + 1 : start + length + 1], before)
        found["losses"] = max(found["losses"], largest((nll_BT.T, recorded[f"{name}/nll{bits}"][part])))
        start += length
    if bits == 64:
        kept = [(state[i].transpose(0, 1), recorded.get(f"{name}/mems64_final/{i}")) for i in range(len(state))]
        memories = [(ours, theirs) for ours, theirs in kept if theirs is not None]  # none with mem_len 0
        found["memories"] = largest(*memories)
        if f"{name}/hidden64_seg5" in recorded:
            h_BTD, _ = model.hidden(tokens_BL[:, part], before)
            log_probs_BTV, _ = model.log_probs(tokens_BL[:, part], before)
            found["hidden"] = largest((h_BTD.transpose(0, 1), recorded[f"{name}/hidden64_seg5"]))
            found["log_probs"] = largest((log_probs_BTV[:, -1], recorded[f"{name}/logprob64_last"]))
    return found


def table() -> dict[str, dict[str, float]]:
    manifest, rows = json.loads((GOLDEN / "manifest.json").read_text(encoding="utf-8")), {}
    for model_name, info in manifest["models"].items():
        weights, recorded = dict(np.load(GOLDEN / info["weights"])), dict(np.load(GOLDEN / info["expected"]))
        row: dict[str, float] = {}
        for bits, dtype in ((64, torch.float64), (32, torch.float32)):
            model = original.build(weights, info["config"]).to(dtype).eval()
            for name, setting in manifest["settings"].items():
                for key, error in errors(model, recorded, name, setting, bits).items():
                    key = f"{key} float{bits}"
                    row[key] = max(row.get(key, 0.0), float(error))
        rows[model_name] = row
    return rows


if __name__ == "__main__":
    rows = table()
    columns = list(dict.fromkeys(key for row in rows.values() for key in row))
    print("| model | " + " | ".join(columns) + " |\n| --- |" + " ---: |" * len(columns))
    for name, row in rows.items():
        print(f"| {name} | " + " | ".join(f"{row[column]:.1e}" for column in columns) + " |")

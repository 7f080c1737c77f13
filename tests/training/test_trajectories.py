"""Training equals the original's: 24 updates give its losses, gradient norms, learning rates and final weights."""

import numpy as np
import pytest
import torch

from tbptt.data.lanes import Lanes
from tbptt.device import Precision
from tbptt.training.config import ResetState
from tbptt.training.optimizers import AdamConfig
from tests.helpers import assert_close
from tests.models.recorded import GOLDEN, MANIFEST, golden_model, under_original_names
from tests.training.trainers import make_trainer


@pytest.mark.parametrize("model_name", sorted(MANIFEST["trajectories"]))
def test_24_updates_are_the_originals(model_name):
    info = MANIFEST["trajectories"][model_name]
    with np.load(GOLDEN / info["file"]) as arrays:
        recorded = {
            name.removeprefix(f"{model_name}/"): arrays[name] for name in arrays.files if name.startswith(model_name)
        }
    model, setting = golden_model(model_name, torch.float64), MANIFEST["settings"][info["setting"]]
    model.set_context(**{key: setting[key] for key in ("mem_len", "clamp_len", "same_length")})
    stream_BN = recorded["tokens"].T
    trainer = make_trainer(
        model,
        Lanes(stream_BN[:, :-1], stream_BN[:, 1:], info["tgt_len"]),
        AdamConfig(lr=info["lr"]),
        max_steps=info["steps"],
        clip=info["clip"],
        precision=Precision.fp64,
        reset_state=ResetState.never,
    )
    updates = [trainer.update() for _ in range(info["steps"])]

    assert_close(torch.tensor([update.loss for update in updates], dtype=torch.float64), recorded["loss64"], 1e-8)
    assert_close(torch.tensor([update.grad_norm for update in updates], dtype=torch.float64), recorded["gnorm64"], 1e-8)
    assert_close(torch.tensor([update.lr for update in updates], dtype=torch.float64), recorded["lr"], 1e-8)
    assert {update.tokens for update in updates} == {stream_BN.shape[0] * info["tgt_len"]}
    final = {
        key.removeprefix("final64/"): torch.from_numpy(x) for key, x in recorded.items() if key.startswith("final64/")
    }
    ours = under_original_names(model, {name: p.detach() for name, p in model.named_parameters()}, final)
    for name, weights in final.items():
        assert_close(ours[name], weights, 1e-8)

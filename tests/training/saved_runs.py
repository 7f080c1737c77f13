"""A run whose checkpoints tell their step in every part of them."""

from pathlib import Path

import torch
from torch import nn

from tbptt.training import links
from tbptt.training.checkpoints import Checkpoint, Checkpoints

RNG_STATE = torch.get_rng_state()
IDENTITY = {"model": {"name": "lstm", "d_model": 8}, "data": {"vocab_size": 30, "vocabulary_sha256": "a"}}


def model_at(step: int) -> nn.Module:
    model = nn.Linear(2, 3)
    return model.requires_grad_(False).apply(lambda layer: [p.fill_(step) for p in layer.parameters()])


def save(checkpoints: Checkpoints, step: int, best: bool = False) -> None:
    training = {"trainer": {"step": step, "rng": RNG_STATE, "lane_states": (torch.full((2, 1), step),)}}
    before = links.follow(checkpoints.folder / "best").name.removeprefix("step_")
    training["record"] = {"best_step": step if best else int(before) if before.isdigit() else 0}
    checkpoints.save(step, model_at(step), training, {"identity": IDENTITY}, best)


def saved_run(run: Path, keep: int = 2) -> Checkpoints:
    """Checkpoints of steps 1 (the best) and 2."""
    checkpoints = Checkpoints(run / "checkpoints", keep)
    save(checkpoints, 1, best=True)
    save(checkpoints, 2)
    return checkpoints


def whole_step(checkpoint: Checkpoint | None) -> int:
    """The step that weights, training state and description agree on."""
    model = model_at(0)
    checkpoint.load_weights(model)
    steps = {p.item() for parameter in model.parameters() for p in parameter.flatten()}
    training = checkpoint.training_state()["trainer"]
    steps |= {training["step"], checkpoint.info["step"], *training["lane_states"][0].flatten().tolist()}
    assert len(steps) == 1
    return steps.pop()

"""The settings of an imported optimizer are told, and are in the command that trains on."""

import pytest
import torch

from tbptt.interop.importing import read
from tbptt.training.optimizers import AdamWConfig, Decay
from tests.helpers import composed
from tests.interop.foreign_files import fairseq_file, nvidia_file, original_file

NAME = "c_adaptive_div2_proj"


def optimizer_of(format: str, path, groups: list[dict], args: dict, state: bool = True) -> tuple[list[str], str]:
    """The overrides and notes of an import whose file has these parameter groups and settings of the optimizer."""
    optimizer = {"state": {}, "param_groups": [group | {"params": []} for group in groups]} if state else None
    if format == "fairseq":
        config = fairseq_file(path, "dicts", optimizer)
        held = torch.load(path, weights_only=False)
        held["cfg"]["optimizer"] |= args
        torch.save(held, path)
    elif format == "nvidia":
        config = nvidia_file(path, NAME, optimizer)
    else:
        config = original_file(path, NAME)
        torch.save(optimizer, path.with_name("optimizer.pt"))
    imported = read(config)
    return imported.optimizer, "; ".join(imported.notes)


GROUP = {"lr": 1e-4, "betas": (0.9, 0.98), "eps": 1e-6, "weight_decay": 0.1, "amsgrad": False}
SET = ["optimizer.betas=[0.9,0.98]", "optimizer.eps=1e-06"]


def test_decoupled_weight_decay_is_adamws(tmp_path):
    path = tmp_path / "checkpoint.pt"
    chosen, notes = optimizer_of("fairseq", path, [GROUP], {})
    assert chosen == ["optimizer=adamw", *SET, "optimizer.weight_decay=0.1", "optimizer.decay=all"]
    assert "betas=[0.9,0.98], eps=1e-06, a learning rate of 0.0001" in notes and "decoupled" in notes
    stated = {"adam_betas": "(0.9, 0.98)", "adam_eps": 1e-6, "weight_decay": 0.0}
    chosen, notes = optimizer_of("fairseq", path, [], stated, state=False)
    assert chosen == ["optimizer=adam", *SET] and "has no optimizer state" in notes
    chosen, _ = optimizer_of("original", path, [GROUP | {"decoupled_weight_decay": True}], {})
    assert chosen[0] == "optimizer=adamw"


@pytest.mark.parametrize("format", ["nvidia", "original"])
def test_weight_decay_in_the_gradient_is_said_to_be_lost(tmp_path, format):
    chosen, notes = optimizer_of(format, tmp_path / "checkpoint.pt", [GROUP], {})
    assert chosen == ["optimizer=adam", *SET] and "its weight_decay=0.1 is L2" in notes and "without it" in notes
    chosen, notes = optimizer_of(format, tmp_path / "checkpoint.pt", [GROUP | {"weight_decay": 0, "amsgrad": True}], {})
    assert "L2" not in notes and "amsgrad" in notes
    _, notes = optimizer_of(format, tmp_path / "checkpoint.pt", [GROUP, GROUP | {"weight_decay": 0}], {})
    assert "parameter groups have settings of their own" in notes


def test_the_overrides_of_an_optimizer_are_settings_here(tmp_path):
    chosen, _ = optimizer_of("fairseq", tmp_path / "checkpoint.pt", [GROUP], {})
    optimizer = composed(*chosen, "optimizer.from_checkpoint=true").optimizer
    assert optimizer == AdamWConfig(
        lr=optimizer.lr,
        betas=[0.9, 0.98],
        eps=1e-6,
        weight_decay=0.1,
        decay=Decay.all,
        from_checkpoint=True,
    )

"""What tests of several rooms need: a command line's configuration, and numbers that must agree."""

from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from torch import Tensor

from tbptt.cli.config import Config, register, typed

CONF = Path(__file__).parents[1] / "conf"


def composed(*overrides: str) -> Config:
    """The configuration a command line stands for."""
    register()
    with initialize_config_dir(str(CONF), version_base=None):
        return typed(compose("config", list(overrides)))


def assert_close(actual, expected, tolerance: float) -> None:
    """No element further apart than `tolerance`; shapes equal, NaN never close."""
    torch.testing.assert_close(torch.as_tensor(actual), torch.as_tensor(expected), rtol=0, atol=tolerance)


def assert_relatively_close(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    """The norm of the difference is at most `tolerance` times the norm."""
    assert actual.shape == expected.shape
    assert (actual - expected).norm() <= tolerance * expected.norm()

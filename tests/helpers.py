"""What tests of several rooms need: a command line's configuration, numbers that must agree, and other users."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from torch import Tensor

from tbptt.cli.config import Config, register, typed

CONF = Path(__file__).parents[1] / "conf"
# Else imported when they are first needed, perhaps by another user, who may have no right to read them.
ENCODINGS = "ascii", "cp437", "idna", "latin_1", "utf_8_sig", "utf_32_le"
IMPORTED_LATE = "tokenizers", *(f"encodings.{name}" for name in ENCODINGS)


def composed(*overrides: str, conf: Path = CONF) -> Config:
    """The configuration a command line stands for."""
    register()
    with initialize_config_dir(str(conf), version_base=None):
        return typed(compose("config", list(overrides)))


def assert_close(actual, expected, tolerance: float) -> None:
    """No element further apart than `tolerance`; shapes equal, NaN never close. Plain numbers are float64."""
    numbers = [torch.as_tensor(x, dtype=torch.float64 if isinstance(x, float) else None) for x in (actual, expected)]
    torch.testing.assert_close(*numbers, rtol=0, atol=tolerance)


def assert_relatively_close(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    """The norm of the difference is at most `tolerance` times the norm."""
    assert actual.shape == expected.shape
    assert (actual - expected).norm() <= tolerance * expected.norm()


@contextmanager
def user(uid: int) -> Iterator[None]:
    """Act as another user, as only root can."""
    for module in IMPORTED_LATE:
        import_module(module)
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)

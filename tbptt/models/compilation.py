"""`trainer.compile`: torch.compile for the blocks that a model repeats.

A block is compiled once for all its copies and for all lengths but 0 and 1, which torch.compile takes for constants: a
short last segment or a memory that fills finds its code ready.
"""

from __future__ import annotations

import logging
import os
import shutil

import torch

from tbptt.errors import UserError
from tbptt.models.protocol import RecurrentModel

log = logging.getLogger(__name__)


def check_compiler(device: torch.device) -> None:
    """UserError where torch.compile would fail after the run has begun."""
    if device.type == "cpu":
        compiler = os.environ.get("CXX", "g++")
        if not shutil.which(compiler):
            raise UserError(
                f"trainer.compile=true needs a C++ compiler, and there is no {compiler}: install it or set CXX"
            )


def compile_blocks(model: RecurrentModel) -> None:
    blocks = model.blocks()
    if not blocks:
        log.warning("trainer.compile=true has no effect: %s has no blocks to compile", type(model).__name__)
    # One block's code is shared by training and evaluation, each with an empty, a filling and a full memory.
    torch._dynamo.config.recompile_limit = 64
    for block in blocks:
        block.compile(dynamic=True)

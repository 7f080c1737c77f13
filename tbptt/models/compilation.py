"""`trainer.compile`: torch.compile for the repeated blocks of a model.

A block is compiled once for all its copies. Shapes are dynamic, so that a short last segment or a growing memory does
not trigger a recompilation; only lengths 0 and 1 are compiled separately.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections import Counter

import torch

from tbptt.errors import UserError
from tbptt.models.protocol import RecurrentModel

log = logging.getLogger(__name__)


def check_compiler(device: torch.device) -> None:
    """UserError if torch.compile cannot work on this machine, before the run starts."""
    if device.type == "cpu":
        compiler = os.environ.get("CXX", "g++")
        if not shutil.which(compiler):
            raise UserError(
                f"trainer.compile=true needs a C++ compiler, but {compiler} was not found: install it or set CXX"
            )


def compile_blocks(model: RecurrentModel) -> None:
    """Compile the blocks of `model` in place."""
    blocks = model.blocks()
    if not blocks:
        log.warning("trainer.compile=true has no effect: %s has no blocks to compile", type(model).__name__)
    else:
        kinds = Counter(type(block).__name__ for block in blocks)
        parts = ", ".join(f"{count} of {kind}" for kind, count in kinds.items())
        log.info("Compiling %s: the first step and the first validation may take minutes", parts)
    # All blocks share one cache of compiled variants: training and evaluation, with empty, growing and full memory.
    torch._dynamo.config.recompile_limit = 64
    for block in blocks:
        block.compile(dynamic=True)

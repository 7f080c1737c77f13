"""Choice of how a mixer's recurrence is computed: plain PyTorch (chunks.py, the definition) or fused Triton kernels.

The kernels are those of flash-linear-attention (fla-core), an optional dependency that is imported at the first use.

Shapes: B lanes, H heads, T tokens, K and V sizes of keys and values. The kernels take heads after tokens.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import Enum
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

import torch
from torch import Tensor

from tbptt.models.mixers import chunks

Recurrence = Callable[..., tuple[Tensor, Tensor]]  # a function of chunks.py, or one with the same arguments and results

OLDEST = (0, 6)  # release of fla-core: the one that the plain forms were compared with
MAX_KEY_SIZE = 256


class Kernels(Enum):
    auto = "auto"  # fused on a GPU in 16-bit precision where it can run, else plain
    plain = "plain"
    fused = "fused"  # flash-linear-attention; float32 is rounded to TF32 in its products


def installation_obstacle() -> str | None:
    """What must be installed, as of `fused_obstacle`."""
    try:
        installed = version("fla-core")
    except PackageNotFoundError:
        return "needs flash-linear-attention (pip install -e '.[kernels]')"
    if tuple(map(int, re.findall(r"\d+", installed)))[:2] < OLDEST:
        return f"needs fla-core {'.'.join(map(str, OLDEST))} or newer, not {installed} (pip install -e '.[kernels]')"
    return None if find_spec("triton") else "needs Triton, which is not installed"


INSTALLATION_OBSTACLE = installation_obstacle()


def fused_obstacle(sizes: tuple[int, int], device: torch.device, dtype: torch.dtype) -> str | None:
    """Why kernels cannot run with these K and V, device and dtype of products (a verb phrase); None if they can."""
    K, V = sizes
    if INSTALLATION_OBSTACLE is not None:
        return INSTALLATION_OBSTACLE
    if device.type != "cuda":
        return "needs a GPU"
    if dtype == torch.float64:
        return "has no float64 kernels"
    if K > MAX_KEY_SIZE or K % 2 or V % 2:
        return f"supports even sizes of keys and values and keys of at most {MAX_KEY_SIZE}, not {K} and {V}"
    return None


def pick_kernels(choice: Kernels, sizes: tuple[int, int], device: torch.device, dtype: torch.dtype) -> Kernels:
    """The form to run: resolves `auto`, and returns other choices unchanged."""
    if choice is not Kernels.auto:
        return choice
    can_run = dtype != torch.float32 and fused_obstacle(sizes, device, dtype) is None
    return Kernels.fused if can_run else Kernels.plain


def fused(plain: Recurrence, dtype: torch.dtype) -> Recurrence:
    """Kernels with the arguments and results of `plain`; queries, keys and values are multiplied in `dtype`."""
    return partial(FUSED[plain], dtype)


def _scalar_decay_attention(dtype, q_BGTK, k_BGTK, v_BHTV, log_decay_BHT, S_BHKV, chunk):
    from fla.ops.simple_gla import chunk_simple_gla

    q_BHTK, k_BHTK = (x.repeat_interleave(v_BHTV.shape[1] // x.shape[1], dim=1) for x in (q_BGTK, k_BGTK))
    return _run(chunk_simple_gla, dtype, q_BHTK, k_BHTK, v_BHTV, S_BHKV, g=log_decay_BHT)


def _channel_decay_attention(dtype, q_BHTK, k_BHTK, v_BHTV, log_decay_BHTK, S_BHKV, chunk):
    from fla.ops.gla import chunk_gla

    return _run(chunk_gla, dtype, q_BHTK, k_BHTK, v_BHTV, S_BHKV, g=log_decay_BHTK)


def _gated_delta_rule(dtype, q_BHTK, k_BHTK, v_BHTV, log_decay_BHT, beta_BHT, S_BHKV, chunk):
    from fla.ops.gated_delta_rule import chunk_gated_delta_rule

    return _run(chunk_gated_delta_rule, dtype, q_BHTK, k_BHTK, v_BHTV, S_BHKV, g=log_decay_BHT, beta=beta_BHT)


def _run(
    kernel: Recurrence, dtype: torch.dtype, q: Tensor, k: Tensor, v: Tensor, S_BHKV: Tensor, **gates: Tensor
) -> tuple[Tensor, Tensor]:
    """Gates and states keep their dtype, and the kernels choose the length of a chunk themselves."""
    q_BTHK, k_BTHK, v_BTHV = (x.to(dtype).transpose(1, 2) for x in (q, k, v))
    gates = {name: gate.transpose(1, 2) for name, gate in gates.items()}
    o_BTHV, S = kernel(q=q_BTHK, k=k_BTHK, v=v_BTHV, **gates, scale=1.0, initial_state=S_BHKV, output_final_state=True)
    return o_BTHV.transpose(1, 2).to(S_BHKV.dtype), S


FUSED: dict[Recurrence, Recurrence] = {
    chunks.scalar_decay_attention: _scalar_decay_attention,
    chunks.channel_decay_attention: _channel_decay_attention,
    chunks.gated_delta_rule: _gated_delta_rule,
}

"""Choice of how a mixer's recurrence is computed: plain PyTorch, the definition, or fused Triton kernels.

Plain forms are in channel_decay.py, scalar_decay.py and delta_rule.py. The kernels are those of flash-linear-attention
(fla-core), an optional dependency that is imported at the first use.

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
from torch.nn import functional as F

from tbptt.models.mixers.channel_decay import channel_decay_attention
from tbptt.models.mixers.delta_rule import gated_delta_rule
from tbptt.models.mixers.scalar_decay import scalar_decay_attention

Recurrence = Callable[..., tuple[Tensor, Tensor]]  # a plain form, or what has its arguments and results

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


def _scalar_decay_attention(dtype, q_BGTK, k_BGTK, v_BHTV, log_decay_BHT, S_BHKV, chunk, since_BT=None):
    from fla.ops.simple_gla import chunk_simple_gla

    q_BHTK, k_BHTK = (x.repeat_interleave(v_BHTV.shape[1] // x.shape[1], dim=1) for x in (q_BGTK, k_BGTK))
    return _run(chunk_simple_gla, dtype, q_BHTK, k_BHTK, v_BHTV, S_BHKV, since_BT, g=log_decay_BHT)


def _channel_decay_attention(dtype, q_BHTK, k_BHTK, v_BHTV, log_decay_BHTK, S_BHKV, chunk, since_BT=None):
    from fla.ops.gla import chunk_gla

    return _run(chunk_gla, dtype, q_BHTK, k_BHTK, v_BHTV, S_BHKV, since_BT, g=log_decay_BHTK)


def _gated_delta_rule(dtype, q_BHTK, k_BHTK, v_BHTV, log_decay_BHT, beta_BHT, S_BHKV, chunk, since_BT=None):
    from fla.ops.gated_delta_rule import chunk_gated_delta_rule

    return _run(chunk_gated_delta_rule, dtype, q_BHTK, k_BHTK, v_BHTV, S_BHKV, since_BT, g=log_decay_BHT, beta=beta_BHT)


def _run(
    kernel: Recurrence,
    dtype: torch.dtype,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    S_BHKV: Tensor,
    since_BT: Tensor | None,
    **gates: Tensor,
) -> tuple[Tensor, Tensor]:
    """Gates and states keep their dtype, and the kernels choose the length of a chunk themselves."""
    inputs = {"q": q.to(dtype), "k": k.to(dtype), "v": v.to(dtype)} | gates
    inputs = {name: x.transpose(1, 2) for name, x in inputs.items()}
    kernel = partial(kernel, scale=1.0, output_final_state=True)
    if since_BT is None:
        o_BTHV, S = kernel(**inputs, initial_state=S_BHKV)
    else:
        o_BTHV, S = _run_sequences(kernel, inputs, S_BHKV, since_BT)
    return o_BTHV.transpose(1, 2).to(S_BHKV.dtype), S


def _run_sequences(
    kernel: Recurrence, inputs: dict[str, Tensor], S_BHKV: Tensor, since_BT: Tensor
) -> tuple[Tensor, Tensor]:
    """All lanes in one row, as N sequences: one begins with every lane, and one where a document starts (`since` is 0).

    On a GPU the host waits for the device to learn how many there are.
    """
    B, T = since_BT.shape
    begins_BT = (since_BT == 0).index_fill(1, since_BT.new_zeros(1), True)
    borders = torch.cat([begins_BT.flatten().nonzero().flatten(), since_BT.new_tensor([B * T])])
    last_B = begins_BT.sum(1).cumsum(0) - 1
    first_B = F.pad(last_B[:-1] + 1, (1, 0))
    carried = S_BHKV.masked_fill((since_BT[:, 0] == 0)[:, None, None, None], 0)
    initial_NHKV = S_BHKV.new_zeros(len(borders) - 1, *S_BHKV.shape[1:]).index_copy(0, first_B, carried)
    row = {name: x.flatten(0, 1).unsqueeze(0) for name, x in inputs.items()}
    o, S_NHKV = kernel(**row, initial_state=initial_NHKV, cu_seqlens=borders)
    return o.view(B, T, *o.shape[2:]), S_NHKV[last_B]


FUSED: dict[Recurrence, Recurrence] = {
    scalar_decay_attention: _scalar_decay_attention,
    channel_decay_attention: _channel_decay_attention,
    gated_delta_rule: _gated_delta_rule,
}

"""Stand-ins for the operations of flash-linear-attention that kernels.py calls, token by token in the dtype they get.

Arguments are named and ordered as in fla-core 0.6 (as far as they are used), tensors are (B, T, H, ...), states
(B, H, K, V).
"""

import sys
from itertools import pairwise
from types import ModuleType

import torch
from torch import Tensor


def chunk_gated_delta_rule(
    q, k, v, g, beta, scale=None, initial_state=None, output_final_state=False, cu_seqlens=None
) -> tuple[Tensor, Tensor]:
    def write(S, t):
        return k[:, t, :, :, None] * (beta[:, t, :, None] * (v[:, t] - _read(S, k[:, t])))[:, :, None]

    return _run(q, k, g.unsqueeze(-1), write, scale, initial_state, output_final_state, cu_seqlens)


def chunk_simple_gla(
    q, k, v, g=None, g_gamma=None, scale=None, initial_state=None, output_final_state=False, cu_seqlens=None
) -> tuple[Tensor, Tensor]:
    assert g_gamma is None
    return chunk_gla(q, k, v, g.unsqueeze(-1), scale, initial_state, output_final_state, cu_seqlens)


def chunk_gla(
    q, k, v, g, scale=None, initial_state=None, output_final_state=False, cu_seqlens=None
) -> tuple[Tensor, Tensor]:
    def write(S, t):
        return k[:, t, :, :, None] * v[:, t, :, None]

    return _run(q, k, g, write, scale, initial_state, output_final_state, cu_seqlens)


def _read(S: Tensor, key_BHK: Tensor) -> Tensor:
    return torch.einsum("bhkv,bhk->bhv", S, key_BHK.to(S.dtype))


def _run(q, k, g, write, scale, initial_state, output_final_state, cu_seqlens) -> tuple[Tensor, Tensor]:
    """S_t = e^g_t S_(t-1) + write(e^g_t S_(t-1), t), o_t = S_t^T q_t scale; of several sequences in one row too."""
    assert k.shape == q.shape and initial_state.dtype == torch.promote_types(q.dtype, torch.float32)
    assert output_final_state, "the final state is None unless it is asked for"
    if cu_seqlens is None:
        pieces, states = [(0, q.shape[1])], [initial_state]
    else:
        assert q.shape[0] == 1 and len(initial_state) == len(cu_seqlens) - 1
        pieces, states = pairwise(cu_seqlens.tolist()), initial_state.split(1)
    outputs, final = [], []
    for (start, end), S in zip(pieces, states):
        for t in range(start, end):
            S = S * g[:, t].exp().unsqueeze(-1)
            S = S + write(S, t)
            outputs.append(_read(S, q[:, t]) * (q.shape[-1] ** -0.5 if scale is None else scale))
        final.append(S)
    return torch.stack(outputs, 1).to(q.dtype), torch.cat(final)


MODULES = {
    "fla.ops.gated_delta_rule": chunk_gated_delta_rule,
    "fla.ops.simple_gla": chunk_simple_gla,
    "fla.ops.gla": chunk_gla,
}


def install(monkeypatch) -> None:
    """`from fla.ops... import ...` finds the stand-ins."""
    for name in ("fla", "fla.ops", *MODULES):
        module = ModuleType(name)
        if name in MODULES:
            setattr(module, MODULES[name].__name__, MODULES[name])
        monkeypatch.setitem(sys.modules, name, module)

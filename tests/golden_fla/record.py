"""Records tiny models of flash-linear-attention: what save_pretrained writes, and the losses of fla's own classes.

Needs flash-linear-attention 0.6.0 and transformers 5.24.0 in an environment of their own, and no GPU:

    TRITON_INTERPRET=1 python -m tests.golden_fla.record
"""

import json
import platform
import shutil
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import fla
import numpy as np
import torch
import transformers
import triton
import triton.runtime.autotuner
from fla.layers import gated_deltanet, gla
from fla.models import (
    GatedDeltaNetConfig,
    GatedDeltaNetForCausalLM,
    GLAConfig,
    GLAForCausalLM,
    Mamba2Config,
    Mamba2ForCausalLM,
)
from fla.modules import FusedRMSNormGated, GatedMLP, RMSNorm
from fla.modules.layernorm_gated import RMSNormGated
from fla.ops.gated_delta_rule.gate import naive_gdn_gate
from fla.ops.gated_delta_rule.naive import naive_recurrent_gated_delta_rule
from fla.ops.gla.naive import naive_recurrent_gla
from torch.nn import functional as F

from tests.float64 import Float64

HERE = Path(__file__).parent
SHARED = {"hidden_size": 16, "vocab_size": 50, "fuse_cross_entropy": False}
HEADS = {"num_heads": 2, "intermediate_size": 24}
DELTA = {**SHARED, **HEADS, "head_dim": 8}
MODELS = {
    "gated_deltanet": GatedDeltaNetConfig(**DELTA, num_hidden_layers=2, num_v_heads=4, expand_v=1.5),
    "gated_deltanet_negative": GatedDeltaNetConfig(
        **DELTA, num_hidden_layers=1, allow_neg_eigval=True, conv_size=3, tie_word_embeddings=True
    ),
    "gla": GLAConfig(**SHARED, **HEADS, num_hidden_layers=2),
    "gla_unfused": GLAConfig(
        **SHARED, **HEADS, num_hidden_layers=1, fuse_norm=False, expand_k=1.0, expand_v=1.5, tie_word_embeddings=True
    ),
    # In one group: with several, what fla computes without its CUDA kernels is not what it computes with them.
    "mamba2": Mamba2Config(**SHARED, num_hidden_layers=2, head_dim=8, state_size=8, use_bias=True),
}
PUBLISHED = {"gated_deltanet": GatedDeltaNetConfig(), "gla": GLAConfig(), "mamba2": Mamba2Config()}  # their defaults
CLASSES = {
    GatedDeltaNetConfig: GatedDeltaNetForCausalLM,
    GLAConfig: GLAForCausalLM,
    Mamba2Config: Mamba2ForCausalLM,
}


def delta_rule(q, k, v, g, beta, A_log, dt_bias, allow_neg_eigval, **kwargs):
    q, k = (x * torch.rsqrt(x.square().sum(-1, keepdim=True) + 1e-6) for x in (q, k))
    q, k = (x.repeat_interleave(v.shape[2] // x.shape[2], dim=2) for x in (q, k))
    beta = beta.sigmoid() * (2 if allow_neg_eigval else 1)
    g = naive_gdn_gate(g, A_log, dt_bias)
    return naive_recurrent_gated_delta_rule(q, k, v, beta, g)


def convolution(x, weight, bias, activation, **kwargs):
    assert activation == "silu"
    channels, width = weight.shape
    padded = F.pad(x.transpose(1, 2), (width - 1, 0))
    return F.silu(F.conv1d(padded, weight[:, None], bias, groups=channels)).transpose(1, 2), None


def rms_norm(self, x, residual=None, prenorm=False, **kwargs):
    x = x if residual is None else x + residual
    normed = F.rms_norm(x, x.shape[-1:], self.weight, self.eps)
    return (normed, x) if prenorm else normed


def gated_norm(self, x, gate):
    assert self.activation in ("swish", "silu")
    return F.rms_norm(x, x.shape[-1:], self.weight, self.eps) * F.silu(gate)


def norm_of_gated(self, x, gate):
    assert not self.norm_before_gate
    x = (x * F.silu(gate)).unflatten(-1, (-1, self.group_size))
    return F.rms_norm(x, x.shape[-1:], eps=self.eps).flatten(-2) * self.weight


@contextmanager
def in_plain_float64():
    """fla's kernels are float32: they are replaced by its naive recurrences, and by what its small kernels compute."""
    changes = [
        patch.object(gated_deltanet, "chunk_gated_delta_rule", delta_rule),
        patch.object(gated_deltanet, "fused_recurrent_gated_delta_rule", delta_rule),
        patch.object(gated_deltanet, "causal_conv1d", convolution),
        patch.object(gla, "fused_recurrent_gla", lambda q, k, v, gk, **kwargs: naive_recurrent_gla(q, k, v, gk)),
        patch.object(gla, "chunk_gla", lambda q, k, v, g, **kwargs: naive_recurrent_gla(q, k, v, g)),
        patch.object(RMSNorm, "forward", rms_norm),
        patch.object(FusedRMSNormGated, "forward", gated_norm),
        patch.object(RMSNormGated, "forward", norm_of_gated),
        patch.object(GatedMLP, "forward", lambda s, x: s.down_proj(F.silu(s.gate_proj(x)) * s.up_proj(x))),
    ]
    for change in changes:
        change.start()
    try:
        with Float64():
            yield
    finally:
        for change in changes:
            change.stop()


@torch.no_grad()
def randomise(model, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if "norm" in name or name.endswith(".D"):
            parameter.copy_(1 + 0.2 * noise)
        elif "A_log" in name or "dt_bias" in name:
            parameter.copy_(noise - 1)
        else:
            parameter.copy_(0.4 * noise)


def losses(model, tokens_BL):
    logits = model(tokens_BL[:, :-1], use_cache=False).logits
    return logits, F.cross_entropy(logits.transpose(1, 2), tokens_BL[:, 1:], reduction="none")


def record(name: str, config, seed: int) -> None:
    model = CLASSES[type(config)](config).eval()
    randomise(model, seed)
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    # Up to 64 tokens go through the recurrent kernels; those in chunks do not run under the interpreter.
    tokens = torch.randint(config.vocab_size, (2, 61), generator=torch.Generator().manual_seed(seed + 100))
    with torch.no_grad():
        _, nll32 = losses(model, tokens)
    model.double()
    for module in model.modules():
        for name_of_silu in ("act", "gate_fn"):
            if hasattr(module, name_of_silu):
                setattr(module, name_of_silu, F.silu)
    with in_plain_float64():
        logits, nll64 = losses(model, tokens)
        nll64.mean().backward()
    gradients = {key: parameter.grad.flatten() for key, parameter in model.named_parameters()}
    projections = [(each * torch.arange(len(each)).double().cos()).sum() for each in gradients.values()]
    arrays = {"tokens": tokens, "nll32": nll32, "nll64": nll64, "logits64_last": logits[:, -1]}
    arrays |= {"grad_norm": torch.stack([each.norm() for each in gradients.values()])}
    arrays |= {"grad_cos": torch.stack(projections)}
    saved = {key: value.detach().numpy() for key, value in arrays.items()}
    np.savez_compressed(HERE / f"{name}.expected.npz", params=np.array(list(gradients)), **saved)
    print(name, "float32 differs by", float((nll32 - nll64).abs().max()), "mean", float(nll64.mean()))


def main() -> None:
    # The choice between a kernel's variants needs a GPU: the first one is taken.
    triton.runtime.autotuner.Autotuner._bench = lambda *args, **kwargs: [1.0, 1.0, 1.0]
    for seed, (name, config) in enumerate(MODELS.items()):
        record(name, config, seed)
    with torch.device("meta"):
        models = {name: CLASSES[type(config)](config) for name, config in PUBLISHED.items()}
    manifest = {
        "versions": {
            "flash-linear-attention": fla.__version__,
            "transformers": transformers.__version__,
            "torch": torch.__version__,
            "triton": triton.__version__,
            "python": platform.python_version(),
        },
        "parameters_with_default_settings": {
            name: sum(parameter.numel() for parameter in model.parameters()) for name, model in models.items()
        },
    }
    (HERE / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")


if __name__ == "__main__":
    main()

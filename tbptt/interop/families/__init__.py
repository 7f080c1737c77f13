"""Kinds of directories that are stacks here, one file each."""

from __future__ import annotations

from tbptt.interop.families import (
    fla_mamba2,
    gated_deltanet,
    gla,
    mamba2,
    olmo_hybrid,
    qwen3_5,
    qwen3_next,
    recurrent_gemma,
    state_spaces,
    xlstm,
)
from tbptt.interop.families.family import Family, Settings, Source

# By model_type: those of Hugging Face's transformers, and the last two of flash-linear-attention.
FAMILIES: dict[str, Family] = {
    module.FAMILY.model_type: module.FAMILY
    for module in (mamba2, xlstm, olmo_hybrid, qwen3_next, qwen3_5, recurrent_gemma, gated_deltanet, gla)
}
WHOLES = {family.whole: family for family in FAMILIES.values() if family.whole is not None}
KNOWN = (*FAMILIES, *WHOLES)


def source_of(given: Settings) -> Source | None:
    """The kind of a directory with this config.json, None if it is none of these."""
    model_type = str(given.get("model_type"))
    if "model_type" not in given and state_spaces.MIXER in given:
        return state_spaces.SOURCE
    if model_type == fla_mamba2.SOURCE.model_type and fla_mamba2.OWN in given:
        return fla_mamba2.SOURCE
    return (FAMILIES | WHOLES).get(model_type)

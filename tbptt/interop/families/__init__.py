"""Model types of Hugging Face's transformers that are stacks here, one file each."""

from __future__ import annotations

from tbptt.interop.families import mamba2, olmo_hybrid, qwen3_5, qwen3_next, recurrent_gemma, xlstm
from tbptt.interop.families.family import Family

# By model_type.
FAMILIES: dict[str, Family] = {
    module.FAMILY.model_type: module.FAMILY
    for module in (mamba2, xlstm, olmo_hybrid, qwen3_next, qwen3_5, recurrent_gemma)
}
WHOLES = {family.whole: family for family in FAMILIES.values() if family.whole is not None}

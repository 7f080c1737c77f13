"""Model types of Hugging Face's transformers that are stacks here, one file each."""

from __future__ import annotations

from tbptt.interop.families import mamba2, olmo_hybrid, qwen3_next, xlstm
from tbptt.interop.families.family import Family

FAMILIES: dict[str, Family] = {
    family.model_type: family for family in (mamba2.FAMILY, xlstm.FAMILY, olmo_hybrid.FAMILY, qwen3_next.FAMILY)
}

"""The mixers of a stack, each with the dataclass that configures and builds it."""

from tbptt.models.mixers.attention import AttentionConfig
from tbptt.models.mixers.gated_delta import GatedDeltaConfig
from tbptt.models.mixers.gla import GLAConfig
from tbptt.models.mixers.lstm import LSTMMixerConfig
from tbptt.models.mixers.mamba2 import Mamba2Config
from tbptt.models.mixers.mlstm import MLSTMConfig
from tbptt.models.mixers.protocol import Mixer, MixerConfig
from tbptt.models.mixers.relative_attention import RelativeAttentionConfig
from tbptt.models.mixers.rg_lru import RGLRUConfig
from tbptt.models.mixers.slstm import SLSTMConfig

__all__ = [
    "AttentionConfig",
    "GLAConfig",
    "GatedDeltaConfig",
    "LSTMMixerConfig",
    "MLSTMConfig",
    "Mamba2Config",
    "Mixer",
    "MixerConfig",
    "RGLRUConfig",
    "RelativeAttentionConfig",
    "SLSTMConfig",
]

"""Models that carry a state from segment to segment, each with the dataclass that configures and builds it."""

from tbptt.models.lstm import LSTMConfig
from tbptt.models.protocol import ModelConfig, RecurrentModel, State
from tbptt.models.stack import StackConfig
from tbptt.models.transformer_xl import TransformerXLConfig

# To add a model: write its module and its config (with a unique `name` and `build`), and list the config here.
CONFIGS: dict[str, type[ModelConfig]] = {
    config.name: config for config in (TransformerXLConfig, LSTMConfig, StackConfig)
}

__all__ = ["CONFIGS", "ModelConfig", "RecurrentModel", "State"]

"""Directories with a config.json, of Hugging Face and others: Transformer-XL, and recurrent and hybrid models."""

from __future__ import annotations

from pathlib import Path

from tbptt.data.vocabulary import Vocabulary
from tbptt.errors import UserError
from tbptt.interop import original, stacks, transfo_xl
from tbptt.interop.families import KNOWN, source_of
from tbptt.interop.foreign import ForeignModel
from tbptt.interop.hf_files import read_config
from tbptt.models import ModelConfig, RecurrentModel
from tbptt.models.stack import Stack, StackConfig
from tbptt.models.transformer_xl import TransformerXL, TransformerXLConfig


def build(folder: Path | str) -> RecurrentModel:
    """The model of a directory of transformers, flash-linear-attention or mamba_ssm (Mamba-2), in float32.

    Its model_type is that of Transformer-XL (`transfo-xl`) or of a stack (those of `tbptt.interop.families`); that of
    mamba_ssm has none. UserError if a file is missing or damaged, or if a setting is not supported.
    """
    foreign = read(Path(folder).expanduser())
    if isinstance(foreign, stacks.ForeignStack):
        return stacks.model(foreign)
    return original.build(foreign.into_original(foreign.weights), foreign.arguments)


def read(folder: Path) -> ForeignModel | stacks.ForeignStack:
    """Read a directory. UserError if a file is missing or damaged, or of another model."""
    config = read_config(folder)
    source = source_of(config)
    if source is not None:
        return stacks.read(folder, source, config)
    model_type = config.get("model_type", transfo_xl.MODEL_TYPE)
    if model_type != transfo_xl.MODEL_TYPE:
        known = ", ".join((transfo_xl.MODEL_TYPE, *KNOWN))
        raise UserError(f"{folder}/config.json has model_type={model_type}, which must be one of {known}")
    return transfo_xl.read(folder, config)


def check_export(config: ModelConfig) -> None:
    """UserError if no model of transformers represents the model."""
    if isinstance(config, StackConfig):
        stacks.family_of(config)
    else:
        assert isinstance(config, TransformerXLConfig)
        transfo_xl.check_export(config)


def write(
    model: RecurrentModel,
    config: ModelConfig,
    vocabulary: Vocabulary | None,
    folder: Path,
    imported: str | None = None,
) -> None:
    """Write the directory; a Transformer-XL's also holds the words of `vocabulary`.

    `imported` is the model type of the model's source: several may represent a stack.
    """
    if isinstance(model, Stack):
        assert isinstance(config, StackConfig)
        stacks.write(model, config, folder, imported)
    else:
        assert isinstance(model, TransformerXL) and isinstance(config, TransformerXLConfig)
        transfo_xl.write(model, config, vocabulary, folder)

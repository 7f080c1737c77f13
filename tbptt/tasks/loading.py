"""What `checkpoint=` names, opened: the model, the corpus that it is scored on, the language that it reads and writes.

`overrides` is the command line throughout: its data.* say where the corpus is, or which other one.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from omegaconf import OmegaConf

from tbptt.cli.config import Config, from_dict
from tbptt.data import language
from tbptt.data.config import DataConfig
from tbptt.data.corpora import corpus_named
from tbptt.data.language import Language, corpus_language, kept_language
from tbptt.data.own_text import open_own_text
from tbptt.data.prepare import PreparedCorpus, open_corpus
from tbptt.device import parameter_dtype
from tbptt.errors import UserError
from tbptt.models import CONFIGS as MODELS
from tbptt.models import ModelConfig, RecurrentModel
from tbptt.models.compilation import compile_blocks
from tbptt.training.checkpoints import Checkpoint, find_checkpoint, locate_checkpoint

log = logging.getLogger(__name__)


@dataclass
class TrainedModel:
    """A checkpoint, and its model on a device in the precision asked for."""

    checkpoint: Checkpoint
    config: ModelConfig
    model: RecurrentModel


def require_checkpoint(config: Config) -> Path:
    """The folder that `checkpoint=` names, of a task that needs one. UserError without it."""
    if config.checkpoint is None:
        raise UserError(f"task={config.task.name} needs checkpoint=RUN, a run directory or a checkpoint of one")
    return locate_checkpoint(config.checkpoint)


def open_trained(config: Config, overrides: Sequence[str], device: torch.device) -> TrainedModel:
    """Open config.checkpoint. UserError if the settings of `eval` or `trainer` do not fit its model."""
    assert config.checkpoint is not None
    for word in overrides:
        if word.startswith(("model=", "experiment=")):
            raise UserError(
                f"{word} would change how checkpoint={config.checkpoint} is evaluated, not what: leave it out, and "
                "choose eval=wt103_base and the like, or eval.mem_len and the like"
            )
    checkpoint = find_checkpoint(config.checkpoint)
    trained = checkpoint.info["config"]["model"]
    schema = MODELS[trained["name"]]  # how its numbers were computed, on another machine perhaps, is not asked again
    model_config = from_dict(schema, {key: value for key, value in trained.items() if key not in schema.RESULT_NEUTRAL})
    model_config.check_eval(config.eval.context())
    model_config.check_precision(config.trainer.precision, device)
    model = model_config.build(checkpoint.info["identity"]["data"]["vocab_size"])
    checkpoint.load_weights(model)
    model.to(device, parameter_dtype(config.trainer.precision))
    if config.trainer.compile:
        compile_blocks(model)
    return TrainedModel(checkpoint, model_config, model)


def corpus_to_score(config: Config, checkpoint: Checkpoint, overrides: Sequence[str]) -> PreparedCorpus:
    """The checkpoint's corpus, another one, or with data=text a file of the user's, read in the language of the run.

    UserError if its vocabulary is not the model's.
    """
    if config.data.is_one_text:
        path = Path(str(config.data.path)).expanduser()
        log.info("Reading %s with the vocabulary of the run", path)
        return open_own_text(path, config.eval.split.name, _kept_language(checkpoint))
    given = config.data.path
    if config.data.name == "text" and not (given and Path(given).expanduser().exists()):
        found = "needs data.path=FILE" if given is None else f"found no data.path={given}"
        raise UserError(f"data=text {found}: a text to score, or a folder with train.txt, valid.txt, test.txt")
    corpus = open_corpus(_data(config, checkpoint, overrides))
    checkpoint.refuse_other_vocabulary(corpus.identity())
    return corpus


def language_of(config: Config, checkpoint: Checkpoint, overrides: Sequence[str]) -> Language:
    """The language that the run has kept, else that of its corpus, which is opened for it."""
    if not (checkpoint.run_dir / language.FILE).is_file():
        return corpus_language(corpus_to_score(config, checkpoint, overrides))
    for word in _data_words(overrides):
        log.warning("%s has no effect with task=%s: the run has its own vocabulary", word, config.task.name)
    return _kept_language(checkpoint)


def _kept_language(checkpoint: Checkpoint) -> Language:
    data = checkpoint.info["config"]["data"]
    sha256 = checkpoint.info["identity"]["data"]["vocabulary_sha256"]
    return kept_language(checkpoint.run_dir, sha256, lower=bool(data and data["lower"]))


def _data(config: Config, checkpoint: Checkpoint, overrides: Sequence[str]) -> DataConfig:
    """The corpus of the checkpoint, unless the command line names another or changes where it is."""
    words, trained = _data_words(overrides), checkpoint.info["config"]["data"]
    if any(word.startswith("data=") for word in words):
        corpus_named(config.data.name).check(config.data)
        return config.data
    if trained is None:
        raise UserError(
            f"checkpoint={config.checkpoint} was imported and brings no corpus: name one, as in data=wikitext103, "
            "data=fairseq data.path=DATA-BIN or data=text data.path=FILE"
        )
    own = dict(OmegaConf.from_dotlist([word.removeprefix("data.") for word in words]))
    data = from_dict(DataConfig, trained | own)
    corpus_named(data.name).check(data)
    return data


def _data_words(overrides: Sequence[str]) -> list[str]:
    words = [word.lstrip("+") for word in overrides]
    return [word for word in words if word.startswith(("data=", "data."))]

"""Opens a checkpoint: its model, the corpus to score it on, and its language (vocabulary and tokenizer).

`overrides` are those of the command line: data=... and data.*=... replace the checkpoint's corpus settings.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

from tbptt.cli.config import Config, as_dict, from_dict
from tbptt.cli.directories import without_neutral
from tbptt.data import language, subwords
from tbptt.data.config import DataConfig, Level
from tbptt.data.corpora import corpus_named
from tbptt.data.documents.config import schema_of
from tbptt.data.language import Language, corpus_language, load_language
from tbptt.data.own_text import open_own_text
from tbptt.data.prepare import PreparedCorpus, is_prepared, open_corpus
from tbptt.device import parameter_dtype, pick_device
from tbptt.errors import UserError
from tbptt.launch.world import World
from tbptt.models import CONFIGS as MODELS
from tbptt.models import ModelConfig, RecurrentModel
from tbptt.models.compilation import compile_blocks
from tbptt.tasks.scoring import check_context
from tbptt.training.checkpoint import INFO
from tbptt.training.checkpoints import Checkpoint, find_checkpoint, locate_checkpoint

log = logging.getLogger(__name__)


@dataclass
class TrainedModel:
    """A checkpoint and its model, on the device and in the precision of this run."""

    checkpoint: Checkpoint
    config: ModelConfig
    model: RecurrentModel

    @property
    def reset_state(self) -> str | None:
        """The run's trainer.reset_state; None if it was imported."""
        return self.checkpoint.info["config"].get("trainer", {}).get("reset_state")


def require_checkpoint(config: Config) -> Path:
    """The folder of `config.checkpoint`. UserError if it is not set."""
    if config.checkpoint is None:
        raise UserError(f"task={config.task.name} needs checkpoint=RUN, a run directory or one of its checkpoints")
    return locate_checkpoint(config.checkpoint)


def check_trained(config: Config) -> Checkpoint:
    """UserError if there is no checkpoint, or the settings of `eval` or `trainer` do not fit its model."""
    checkpoint = Checkpoint.open(require_checkpoint(config), verify=[INFO])
    _trained_config(config, checkpoint, pick_device(config.trainer.device))
    return checkpoint


def _trained_config(config: Config, checkpoint: Checkpoint, device: torch.device) -> ModelConfig:
    """The model's settings. Those that do not affect results are not taken over.

    They may suit only the machine that trained the model.
    """
    trained = checkpoint.info["config"]["model"]
    schema = MODELS[trained["name"]]
    model_config = from_dict(schema, without_neutral(schema, trained))
    check_context(config.eval, model_config)
    model_config.check_precision(config.trainer.precision, device)
    return model_config


def on_every_rank(world: World, find: Callable[[], Checkpoint | None]) -> Checkpoint | None:
    """The checkpoint that rank 0 finds, on all ranks, by its real folder.

    Links may change while the ranks look, or be out of date on other machines.
    """
    found = find() if world.is_main else None
    folder = world.broadcast(found and found.folder.resolve())
    return found or (Checkpoint.open(folder) if folder else None)


def open_trained(config: Config, overrides: Sequence[str], world: World) -> TrainedModel:
    """Open config.checkpoint. UserError if the settings of `eval` or `trainer` do not fit its model."""
    name = str(config.checkpoint)
    for override in _parsed(overrides):
        if override.key_or_group in ("model", "experiment") and override.value() is not None:
            raise UserError(
                f"{override.input_line} does not replace the model of checkpoint={name}, only evaluation "
                "settings: remove it, and set eval.mem_len, ... or choose a group such as eval=wt103_base"
            )
    checkpoint = on_every_rank(world, lambda: find_checkpoint(name))
    assert checkpoint is not None
    model_config = _trained_config(config, checkpoint, world.device)
    model = model_config.build(checkpoint.info["identity"]["data"]["vocab_size"])
    checkpoint.load_weights(model)
    model.to(world.device, parameter_dtype(config.trainer.precision))
    if config.trainer.compile:
        compile_blocks(model)
    return TrainedModel(checkpoint, model_config, model)


def corpus_to_score(config: Config, checkpoint: Checkpoint, overrides: Sequence[str]) -> PreparedCorpus:
    """The checkpoint's corpus, another corpus, or (data=text data.path=FILE) a text read with the run's vocabulary.

    UserError if the corpus has another vocabulary than the model.
    """
    if config.data.is_one_text:
        path = Path(str(config.data.path)).expanduser()
        log.info("Reading %s with the vocabulary of the run", path)
        if path.suffix in (".json", ".jsonl"):
            log.warning("%s is read as plain text, its JSON included; data=documents reads the documents in it", path)
        return open_own_text(path, config.eval.split.name, _kept_language(checkpoint))
    corpus = open_corpus(data_to_score(config, checkpoint, overrides))
    checkpoint.check_vocabulary(corpus.identity())
    _warn_of_another_text(corpus, checkpoint, overrides)
    return corpus


def _warn_of_another_text(corpus: PreparedCorpus, checkpoint: Checkpoint, overrides: Sequence[str]) -> None:
    """Warn if the corpus of the training run, as it is found here, is not what the run was trained on."""
    chosen = any(override.key_or_group in ("data", "data.path") for override in _data_overrides(overrides))
    key = "train_tokens_sha256"
    trained, found = (each.get(key) for each in (checkpoint.info["identity"]["data"], corpus.identity()))
    if not chosen and trained is not None and trained != found:  # earlier versions did not record it
        log.warning("The corpus here is not that of the training run: its training text differs (%s)", corpus.folder)


def language_of(config: Config, checkpoint: Checkpoint, overrides: Sequence[str]) -> Language:
    """The language saved in the run directory, or else that of the corpus."""
    if not (checkpoint.run_dir / language.FILE).is_file():
        return corpus_language(corpus_to_score(config, checkpoint, overrides))
    for override in _data_overrides(overrides):
        word, task = override.input_line, config.task.name
        log.warning("%s has no effect with task=%s: the run has its own vocabulary", word, task)
    return _kept_language(checkpoint)


def _kept_language(checkpoint: Checkpoint) -> Language:
    data = checkpoint.info["config"]["data"]
    sha256 = checkpoint.info["identity"]["data"]["vocabulary_sha256"]
    return load_language(checkpoint.run_dir, sha256, lower=bool(data and data["lower"]))


def data_to_score(config: Config, checkpoint: Checkpoint, overrides: Sequence[str]) -> DataConfig:
    """The corpus settings of the checkpoint, changed or replaced by those of the command line. UserError if invalid."""
    path = config.data.path
    if config.data.name == "text" and not (path and Path(path).expanduser().exists()):
        problem = "needs data.path=FILE" if path is None else f"found no data.path={path}"
        raise UserError(f"data=text {problem}: give a text to score, or a folder with train.txt, valid.txt, test.txt")
    given, trained = _data_overrides(overrides), checkpoint.info["config"]["data"]
    if any(override.key_or_group == "data" for override in given):
        return _checked(config.data)
    if trained is None:
        raise UserError(
            f"checkpoint={config.checkpoint} was imported and has no corpus: choose one, as in data=wikitext103, "
            "data=fairseq data.path=DATA-BIN or data=text data.path=FILE"
        )
    composed = as_dict(config.data)  # the values as Hydra reads them
    changes = {key: composed[key] for key in (override.key_or_group.removeprefix("data.") for override in given)}
    here = {key: value for key, value in composed.items() if key in DataConfig.RESULT_NEUTRAL}
    data = from_dict(schema_of(trained["name"]), trained | _recorded_places(checkpoint) | here | changes)
    if "url" not in changes and not is_prepared(data):
        data.url = None  # of a mirror near the machine that trained; where the corpus is prepared, it names its files
    return _checked(data)


def _checked(data: DataConfig) -> DataConfig:
    data.check()
    corpus_named(data.name).check(data)
    return data


def _recorded_places(checkpoint: Checkpoint) -> dict[str, str]:
    """data.path and data.vocabulary of the training run: where they were, or where the typed paths lead from here.

    A vocabulary that is at neither place is read from the run directory.
    """
    trained, typed = checkpoint.info["config"]["data"], checkpoint.info.get("typed", {})
    found = {}
    for key in ("path", "vocabulary"):
        candidates = [path for path in (trained[key], typed.get(key)) if path is not None]
        if key == "vocabulary" and candidates:
            kept = subwords.FILE if trained["level"] == Level.bpe.name else language.FILE
            candidates.append(str(checkpoint.run_dir / kept))
        if candidates:
            found[key] = next((path for path in candidates if Path(path).expanduser().exists()), candidates[0])
    return found


def _data_overrides(overrides: Sequence[str]) -> list[Override]:
    return [each for each in _parsed(overrides) if each.key_or_group == "data" or each.key_or_group.startswith("data.")]


def _parsed(overrides: Sequence[str]) -> list[Override]:
    return OverridesParser.create().parse_overrides(list(overrides))

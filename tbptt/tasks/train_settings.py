"""Checks of the settings of `task=train`, before anything is read or written."""

from __future__ import annotations

from tbptt.cli.config import Config
from tbptt.data.acquire import check_corpus
from tbptt.device import pick_device
from tbptt.errors import UserError
from tbptt.evaluation.config import EvalReset
from tbptt.models.lstm import LSTMConfig
from tbptt.models.stack import StackConfig
from tbptt.tasks.scoring import check_context, check_losses_file, resets_at_documents, unused_by_pieces
from tbptt.training.config import ResetState
from tbptt.training.optimizers import MuonConfig
from tbptt.training.schedules import WSDConfig


def check(config: Config) -> None:
    corpus = check_corpus(config.data)
    config.model.check(corpus.vocab_size(config.data))
    check_context(config.eval, config.model)
    check_losses_file(config)
    config.optimizer.check()
    config.scheduler.check()
    config.trainer.check()
    _check_documents(config)
    _check_graphs(config)
    config.logger.check()
    config.model.check_precision(config.trainer.precision, pick_device(config.trainer.device))


def _check_documents(config: Config) -> None:
    """UserError if the state is to be reset at documents of a corpus that has none, or of a model that cannot."""
    resets = {
        "trainer.reset_state": config.trainer.reset_state is ResetState.document,
        "eval.reset_state": config.eval.reset_state is EvalReset.document,
    }
    for key, at_documents in resets.items():
        if at_documents and not config.data.documents:
            raise UserError(
                f"{key}=document needs documents, and data={config.data.name} is read as one text without any: use "
                "data=documents, or data.documents=true where the corpus has them"
            )
    if config.trainer.reset_state is ResetState.document:
        config.model.check_documents({})
    if config.data.documents and resets_at_documents(config, config.trainer.reset_state.name):
        config.model.check_documents(config.eval.context())


def _check_graphs(config: Config) -> None:
    """UserError for what CUDA graphs cannot capture."""
    if not config.trainer.cuda_graphs:
        return
    if config.optimizer.name == MuonConfig.name:
        raise UserError("trainer.cuda_graphs=true cannot capture optimizer=muon, whose rate is a number of the host")
    trainer = config.trainer
    waits = config.model.waits_for_starts(trainer.precision, pick_device(trainer.device))
    if trainer.reset_state is ResetState.document and waits:
        raise UserError(
            "trainer.cuda_graphs=true cannot capture trainer.reset_state=document with an LSTM or with kernels of "
            "recurrent layers, where the host waits for the device: use model.kernels=plain, or no graphs"
        )


def unused_settings(config: Config) -> dict[str, str]:
    return unused_by_pieces(config) | {"eval.dynamic": "a training run ends with static evaluation only: use task=eval"}


def questionable_settings(config: Config) -> list[str]:
    """One sentence for each setting that cannot have its intended effect."""
    sentences = []
    if config.scheduler.warmup_steps >= config.trainer.max_steps:
        sentences.append(
            f"scheduler.warmup_steps={config.scheduler.warmup_steps} is not below trainer.max_steps="
            f"{config.trainer.max_steps}: the learning rate never reaches optimizer.lr"
        )
    if isinstance(config.scheduler, WSDConfig):
        stable = (1 - config.scheduler.decay_share) * config.trainer.max_steps
        if stable <= config.scheduler.warmup_steps < config.trainer.max_steps:
            sentences.append(
                f"scheduler.decay_share={config.scheduler.decay_share} leaves no stable phase: the decay begins before "
                f"the {config.scheduler.warmup_steps} updates of the warm-up have ended"
            )
    if isinstance(config.model, StackConfig):
        sentences += [f"{key} has no effect: no layer is that mixer" for key in config.model.unused_settings()]
    if config.optimizer.from_checkpoint and config.checkpoint is None:
        sentences.append("optimizer.from_checkpoint=true has no effect without checkpoint=RUN")
    if config.trainer.activation_checkpointing and config.trainer.window == 1 and isinstance(config.model, LSTMConfig):
        sentences.append(
            "trainer.activation_checkpointing=true has no effect on an LSTM with trainer.window=1: all activations of "
            "the segment are kept"
        )
    if config.trainer.window > 1 and config.trainer.reset_state is ResetState.segment:
        sentences.append(
            f"trainer.window={config.trainer.window} only makes updates larger: with trainer.reset_state=segment no "
            "gradient reaches back through a state"
        )
    return sentences

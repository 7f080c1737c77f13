"""Scores a split and reports the results, for `task=eval` and for the end of a training run."""

from __future__ import annotations

import hashlib
import logging
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from tbptt.cli.config import Config
from tbptt.data.config import Level
from tbptt.data.prepare import PreparedCorpus
from tbptt.errors import UserError
from tbptt.evaluation.config import EvalConfig, EvalReset
from tbptt.evaluation.losses import save_document_losses, save_losses
from tbptt.evaluation.score import report_lines, score
from tbptt.evaluation.units import loss_units, original_units
from tbptt.launch.world import World
from tbptt.models import ModelConfig, RecurrentModel
from tbptt.report.compressors import compressed_bits_per_byte
from tbptt.report.metrics import METRICS
from tbptt.report.positions import POSITIONS, TRAINED, forget_positions, write_positions
from tbptt.report.progress import progress
from tbptt.report.results import ERROR, RESULTS, read_results
from tbptt.training.config import ResetState

log = logging.getLogger(__name__)
OWN_FILES = {RESULTS, METRICS, ERROR, POSITIONS, "vocabulary.json", "tokenizer.json", "curves.png", "positions.png"}


def score_split(
    config: Config,
    tgt_len: int,
    model: RecurrentModel,
    corpus: PreparedCorpus,
    run_dir: Path,
    world: World,
    starts_D: np.ndarray | None = None,
) -> dict[str, Any]:
    """Score config.eval.split on all ranks of `world`, log a summary, and return the entries of results.json.

    `starts_D` are the first tokens of the documents that reset the state.
    """
    split, level, losses = config.eval.split.name, corpus.vocabulary.level, losses_file(config, run_dir)
    stream = corpus.splits[split]
    name = "text" if corpus.folder.is_file() else split  # a file of the user's, or a split of a corpus
    log.info("Scoring the %s", name if name == "text" else f"{name} split")
    if world.is_main:
        forget_positions(run_dir)
    with progress(1, 0, split, level) as bar:
        scored = score(model, stream, config.eval, tgt_len, config.trainer.precision, bar.update_to, world, starts_D)
    if config.eval.piece_len is not None and config.eval.piece_len > scored.tokens:
        log.warning("eval.piece_len=%s is more than the %s tokens: one piece", config.eval.piece_len, scored.tokens)
    params = sum(parameter.numel() for parameter in model.parameters())
    for line in report_lines(params, scored):
        log.info("%s", line)
    results: dict[str, Any] = {"task": config.task.name, "split": name, "level": level.name}
    results["vocabulary"] = corpus.vocabulary.sha256  # the loss is per token of this vocabulary
    results["text_sha256"] = hashlib.sha256(stream[: scored.tokens + 1].tobytes()).hexdigest()
    results |= scored.as_dict(level) | {"params": params}
    if text_units := original_units(scored.loss, scored.tokens, level, corpus.meta["splits"][split]):
        log.info("%.2f perplexity per word, %.4f bits per byte of the text", *text_units.values())
        results |= text_units
    if losses and world.is_main:
        metadata = {"checkpoint": config.checkpoint or str(run_dir), "tokens": scored.tokens, "loss": scored.loss}
        save_losses(scored.losses_N, losses, metadata | {"split": name, "eval": scored.settings})
        log.info("Losses of every token: %s", losses)
        if split in corpus.documents:
            log.info(
                "Losses of every document: %s", save_document_losses(scored.losses_N, corpus.documents[split], losses)
            )
    if config.eval.by_position:
        results[TRAINED] = tgt_len
        if world.is_main:
            rows = [asdict(each) | loss_units(each.loss, level) for each in scored.by_position]
            write_positions(rows, level, tgt_len, run_dir)
    if level is Level.byte and (text := corpus.vocabulary.to_bytes(stream[: scored.tokens + 1])):
        compressors = compressed_bits_per_byte(text)
        baselines = ", ".join(f"{name} {bits:.3f}" for name, bits in compressors.items())
        log.info("%.3f bits per byte (compressors on the same text: %s)", results["bpc"], baselines)
        results["compressors"] = compressors
    return results


def remind(run_dir: Path) -> None:
    """Log the loss that the results of `run_dir` have."""
    results = read_results(run_dir)
    if "loss" in results and "ppl" in results:
        log.info("Loss (base 2): %.4f, Perplexity: %.2f", results["loss"] / math.log(2), results["ppl"])


def check_context(config: EvalConfig, model: ModelConfig) -> None:
    """UserError for settings of `eval` that the model cannot be evaluated with."""
    model.check_eval(config.context())
    config.check_walk_len(model.any_segments(config.context()))


def check_losses_file(config: Config) -> None:
    """UserError if all members of a sweep would write the file of eval.save_losses, or it is one of the run's own."""
    path = Path(config.eval.save_losses or "").expanduser()
    for name in (path.name, f"{path.name}.json") if path == Path(path.name) else ():
        if name in OWN_FILES or name.startswith("run."):
            raise UserError(f"eval.save_losses={path} would overwrite {name} of the run: choose another name")
    if path.is_absolute() and HydraConfig.get().mode is RunMode.MULTIRUN:
        raise UserError(
            f"eval.save_losses={path} would be written by every member of the sweep: give a relative path, which "
            "is in each member's run directory"
        )


def losses_file(config: Config, run_dir: Path) -> Path | None:
    """The file of eval.save_losses, if set. UserError if it is a folder."""
    if config.eval.save_losses is None:
        return None
    path = Path(config.eval.save_losses).expanduser()
    if (run_dir / path).is_dir():
        raise UserError(f"eval.save_losses={path} is a folder: it must be a file")
    return run_dir / path


def resets_at_documents(config: Config, trained: str | None) -> bool:
    """Whether documents reset the state: by eval.reset_state, or else as the run was trained (trainer.reset_state)."""
    if config.eval.reset_state is None:
        return trained == ResetState.document.name
    return config.eval.reset_state is EvalReset.document


def documents_that_reset(config: Config, corpus: PreparedCorpus, split: str, trained: str | None) -> np.ndarray | None:
    """The first tokens of the documents of `split` if an evaluation resets the state there, else None.

    `trained` is the run's trainer.reset_state, which decides where eval.reset_state is not given. UserError if the
    corpus has no documents to reset at.
    """
    if not resets_at_documents(config, trained):
        return None
    if split not in corpus.documents:
        if config.eval.reset_state is None:
            return None
        title = corpus.meta["title"]
        raise UserError(f"eval.reset_state=document needs documents, and {title} is read as one text without any")
    return corpus.documents[split]


def unused_by_pieces(config: Config) -> dict[str, str]:
    """The keys that eval.piece_len leaves without an effect, each with the reason."""
    if config.eval.piece_len is None:
        return {}
    return {"eval.burn_in": "the pieces of eval.piece_len start empty, and depend on nothing before them"}

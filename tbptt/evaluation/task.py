"""`task=eval`: a split scored with the weights of a checkpoint, and all there is to say about the number."""

from __future__ import annotations

import hashlib
import logging
import math
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from tbptt.config import Config, as_dict
from tbptt.data.config import Level
from tbptt.data.prepare import PreparedCorpus
from tbptt.errors import UserError
from tbptt.evaluation.dynamic import score_dynamically
from tbptt.evaluation.losses import save_losses
from tbptt.evaluation.score import report_lines, score
from tbptt.evaluation.units import loss_units, original_units
from tbptt.launch.world import World
from tbptt.loading import corpus_to_score, open_trained
from tbptt.models import RecurrentModel
from tbptt.report.compressors import compressed_bits_per_byte
from tbptt.report.progress import progress
from tbptt.report.results import RESULTS, read_results, start_results, write_results

log = logging.getLogger(__name__)


def evaluate(config: Config, run_dir: Path, world: World) -> None:
    """Score a split with the weights of a checkpoint, under the settings of the `eval` group."""
    overrides = HydraConfig.get().overrides.task
    trained = open_trained(config, overrides, world.device)
    corpus = corpus_to_score(config, trained.checkpoint, overrides)
    scored = {
        "checkpoint": trained.checkpoint.name(),
        "precision": config.trainer.precision.name,
        "text": hashlib.sha256(corpus.splits[config.eval.split.name].data).hexdigest(),
        "eval": as_dict(config.eval),
    }
    losses = losses_file(config, run_dir)
    known = read_results(run_dir).get("scored") == scored and (losses is None or losses.is_file())
    if world.broadcast(known):
        log.info("Scored before: %s; delete it to score again", run_dir / RESULTS)
        return
    if world.is_main:
        start_results(run_dir)
    log.info("Evaluating %s (step %s)", trained.checkpoint.folder, f"{trained.checkpoint.info['step']:,}")
    for note in trained.model.notes():
        log.info("%s", note)
    results = score_split(config, trained.config.tgt_len, trained.model, corpus, run_dir, world)
    if config.eval.dynamic.follows:
        results |= _score_dynamically(config, trained.config.tgt_len, trained.model, corpus)
    if world.is_main:
        write_results(results | {"scored": scored}, run_dir)


def score_split(
    config: Config, tgt_len: int, model: RecurrentModel, corpus: PreparedCorpus, run_dir: Path, world: World
) -> dict[str, Any]:
    """Score config.eval.split, on all ranks of `world` together, and print what there is to say about it."""
    split, level, losses = config.eval.split.name, corpus.vocabulary.level, losses_file(config, run_dir)
    stream = corpus.splits[split]
    name = "text" if corpus.folder.is_file() else split  # a file of the user's, or a split of a corpus
    log.info("Scoring the %s", name if name == "text" else f"{name} split")
    with progress(1, 0, split, level) as shown:
        scored = score(model, stream, config.eval, tgt_len, config.trainer.precision, shown.reach, world)
    params = sum(parameter.numel() for parameter in model.parameters())
    for line in report_lines(params, scored):
        log.info("%s", line)
    results: dict[str, Any] = {"task": config.task.name, "split": name, "level": level.name}
    results |= scored.as_dict(level) | {"params": params}
    if in_text := original_units(scored.loss, scored.tokens, level, corpus.meta["splits"][split]):
        log.info("%.2f perplexity per word, %.4f bits per byte of the text", *in_text.values())
        results |= in_text
    if losses and world.is_main:
        about = {"checkpoint": config.checkpoint or str(run_dir), "tokens": scored.tokens, "loss": scored.loss}
        save_losses(scored.losses_N, losses, about | {"split": name, "eval": scored.settings})
        log.info("Losses of every token: %s", losses)
    if level is Level.byte:
        peers = compressed_bits_per_byte(stream[: scored.tokens + 1].tobytes())
        theirs = ", ".join(f"{name} makes {bits:.3f}" for name, bits in peers.items())
        log.info("%.3f bits per byte; of the same bytes %s", results["bpc"], theirs)
        results["compressors"] = peers
    return results


def losses_file(config: Config, run_dir: Path) -> Path | None:
    """Where eval.save_losses writes. UserError for a place that is a folder, or that all members of a sweep share."""
    if config.eval.save_losses is None:
        return None
    path = Path(config.eval.save_losses).expanduser()
    if path.is_absolute() and HydraConfig.initialized() and HydraConfig.get().mode is RunMode.MULTIRUN:
        raise UserError(
            f"eval.save_losses={path} would be written by every member of the sweep: a relative path lies in each "
            "member's run directory"
        )
    if (run_dir / path).is_dir():
        raise UserError(f"eval.save_losses={path} is a folder: it must be a file")
    return run_dir / path


def _score_dynamically(config: Config, tgt_len: int, model: RecurrentModel, corpus: PreparedCorpus) -> dict[str, Any]:
    """Score once more, with weights that follow the text: numbers under names of their own, beside the static ones."""
    split, level, precision = config.eval.split.name, corpus.vocabulary.level, config.trainer.precision
    log.info("Dynamic evaluation, in one lane from the start")
    streams = corpus.splits[split], corpus.splits.get("train")
    with progress(1, 0, "dynamic", level) as shown:
        scored = score_dynamically(model, *streams, config.eval, tgt_len, precision, shown.reach)
    units = loss_units(scored.loss, level)
    units |= original_units(scored.loss, scored.tokens, level, corpus.meta["splits"][split])
    log.info("Dynamic loss (base 2): %.4f, Perplexity: %.2f", scored.loss / math.log(2), units["ppl"])
    units |= {"seconds": round(scored.seconds, 3)}
    settings = as_dict(config.eval.dynamic) | scored.settings
    return {"dynamic": settings} | {f"dynamic_{key}": value for key, value in units.items()}

"""A split scored and reported on, as training does at its end and `task=eval` for any checkpoint."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from tbptt.cli.config import Config
from tbptt.data.config import Level
from tbptt.data.prepare import PreparedCorpus
from tbptt.errors import UserError
from tbptt.evaluation.losses import save_losses
from tbptt.evaluation.score import report_lines, score
from tbptt.evaluation.units import original_units
from tbptt.launch.world import World
from tbptt.models import RecurrentModel
from tbptt.report.compressors import compressed_bits_per_byte
from tbptt.report.progress import progress

log = logging.getLogger(__name__)


def score_split(
    config: Config, tgt_len: int, model: RecurrentModel, corpus: PreparedCorpus, run_dir: Path, world: World
) -> dict[str, Any]:
    """Score config.eval.split, on all ranks of `world` together, and print what there is to say about it."""
    split, level, losses = config.eval.split.name, corpus.vocabulary.level, losses_file(config, run_dir)
    stream = corpus.splits[split]
    name = "text" if corpus.folder.is_file() else split  # a file of the user's, or a split of a corpus
    log.info("Scoring the %s", name if name == "text" else f"{name} split")
    with progress(1, 0, split, level) as bar:
        scored = score(model, stream, config.eval, tgt_len, config.trainer.precision, bar.reach, world)
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

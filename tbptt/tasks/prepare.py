"""`task=prepare`: downloads and prepares a corpus in advance, e.g. on a login node, and logs its token counts."""

from __future__ import annotations

import logging
from pathlib import Path

from tbptt.cli.config import Config
from tbptt.data.acquire import check_corpus
from tbptt.data.prepare import open_corpus
from tbptt.launch.stopping import not_requeued_at_time_limit
from tbptt.launch.world import World

log = logging.getLogger(__name__)


def check(config: Config) -> None:
    check_corpus(config.data)


def unused_settings(config: Config) -> dict[str, str]:
    return dict.fromkeys(("optimizer", "scheduler", "logger"), "nothing is trained") | dict.fromkeys(
        ("seed", "model", "trainer", "eval", "checkpoint", "data.batch_size", "data.order"),
        "only the corpus is prepared",
    )


def run(config: Config, run_dir: Path, world: World) -> None:
    """Write the token files of config.data unless they exist, and log the number of tokens in each split."""
    with not_requeued_at_time_limit("this preparation"):
        corpus = open_corpus(config.data)
    log.info("%s: %s entries in the vocabulary", corpus.meta["title"], f"{len(corpus.vocabulary):,}")
    for split, counts in corpus.meta["splits"].items():
        unknown = f"{counts['unknown']:,} unknown ({counts['unknown'] / counts['tokens']:.2%})"
        tokens = f"{counts['tokens']:,} tokens"
        if split in corpus.documents:
            tokens += f" in {counts['documents']:,} documents"
        log.info("%s: %s, %s, from %s bytes", split, tokens, unknown, f"{counts['source_bytes']:,}")
    log.info("Token files: %s", corpus.folder)

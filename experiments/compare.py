"""The training speed of two versions of the project on a processor, some updates of each in turns.

    git worktree add ../before main
    python -m experiments.compare ../before
    python -m experiments.compare ../before model=txl_tiny --vocabulary 256 --turns 30

A busy machine slows neighbouring turns alike; the first update of a turn finds the other's data in the caches and does
not count. Words with `=` are settings as in experiments.throughput. Prints the medians of the turns in ms an update,
and the median of the ratios of neighbouring turns.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).resolve().parents[1]
UPDATES = 9  # that count in a turn


class Worker:
    """A process that trains whenever it is asked."""

    def __init__(self, command: list[str], **settings: Any):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(command, **pipes, **settings)
        self.answer()

    def answer(self) -> float:
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("Error: the process did not start, or ended: see above")
        return float(line)

    def turn(self) -> float:
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.answer()


def version(root: Path, overrides: list[str], vocabulary: int) -> Worker:
    """One that trains with the code under `root`."""
    command = [sys.executable, __file__, "--worker", *overrides, "--vocabulary", str(vocabulary)]
    return Worker(command, cwd=root, env=os.environ | {"PYTHONPATH": str(root)})


def in_turns(before: Worker, now: Worker, turns: int) -> dict[str, float]:
    """Medians in ms an update, and the median of the ratios of neighbouring turns."""
    times = [(before.turn(), now.turn()) for _ in range(turns)]
    for worker in (before, now):
        worker.process.kill()
    medians = [round(median(column), 1) for column in zip(*times)]
    return {"before_ms": medians[0], "now_ms": medians[1], "ratio": round(median(a / b for a, b in times), 3)}


def take_turns(update: Callable[[], object]) -> None:
    """Say 0 when memory is full; then for every line read, the milliseconds of an update."""
    for _ in range(5):
        update()
    print(0, flush=True)
    for _ in sys.stdin:
        update()
        started = time.perf_counter()
        for _ in range(UPDATES):
            update()
        print(1000 * (time.perf_counter() - started) / UPDATES, flush=True)


def work(overrides: list[str], vocabulary: int) -> None:
    from hydra import compose, initialize_config_dir

    from experiments.throughput import CONF, CPU_SHAPE, register, typed, zipf_tokens  # what every version has
    from tbptt.data.lanes import Lanes
    from tbptt.training.trainer import Trainer

    register()
    for module, name in (("tbptt.device", "keep_freed_memory"), ("tbptt.threads", "share_cores")):
        if find_spec(module):  # as run.py does, if this version has it
            getattr(import_module(module), name, lambda: None)()
    with initialize_config_dir(str(CONF), version_base=None):
        config = typed(compose("config", overrides or CPU_SHAPE))
    model = config.model.build(vocabulary)
    tokens = zipf_tokens(300 * config.data.batch_size * config.model.tgt_len, vocabulary)
    lanes = Lanes.cut(tokens, config.data.batch_size, config.model.tgt_len)
    schedule = config.scheduler.build(config.optimizer.lr, config.trainer.max_steps)
    trainer = Trainer(model, lanes, config.optimizer.build(model), schedule, config.trainer)
    take_turns(trainer.update)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", help="the folder of the version before, then settings")
    parser.add_argument("--vocabulary", type=int, default=32_632)
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_intermixed_args()
    if options.worker:
        work(options.words, options.vocabulary)
    else:
        before, *overrides = options.words or [""]
        if not before or not (Path(before) / "tbptt").is_dir():
            parser.error(f"the first word must be a folder with another version of the project, not {before!r}")
        versions = [version(root, overrides, options.vocabulary) for root in (Path(before).resolve(), HERE)]
        print(json.dumps(in_turns(*versions, options.turns)))

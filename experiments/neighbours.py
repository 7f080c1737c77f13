"""Training beside other busy processes: how OpenMP's threads should wait for each other.

    python -m experiments.neighbours [--rounds 3] [--updates 30]

Threads that meet at a barrier spin there for a while before they sleep. Where another process takes a core, they spin
while the thread that they wait for does not run. Every round times the updates of `python run.py` (the default model,
lanes and segments, random bytes) with every setting beside 0, 1 and 2 busy loops, in turns; a row gives the medians in
tokens a second. "Watching" is what run.py does (tbptt/threads.py).
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time

SETTINGS: dict[str, dict[str, str]] = {
    "watching": {},
    "libgomp's own": {"GOMP_SPINCOUNT": "300000"},
    "OMP_WAIT_POLICY=passive": {"OMP_WAIT_POLICY": "passive"},
    "GOMP_SPINCOUNT=100": {"GOMP_SPINCOUNT": "100"},
    "GOMP_SPINCOUNT=1000": {"GOMP_SPINCOUNT": "1000"},
    "GOMP_SPINCOUNT=10000": {"GOMP_SPINCOUNT": "10000"},
    "OMP_NUM_THREADS=1": {"OMP_NUM_THREADS": "1"},
}
NEIGHBOURS = (0, 1, 2)
WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS", "KMP_BLOCKTIME")  # variables that settings replace


def train(updates: int) -> float:
    """Tokens a second of this process, after some updates to warm up."""
    import numpy as np
    from hydra import compose, initialize_config_dir

    from experiments.throughput import CONF
    from tbptt.cli.config import register, typed
    from tbptt.data.lanes import Lanes
    from tbptt.threads import PERIOD, share_cores
    from tbptt.training.trainer import Trainer

    register()
    with initialize_config_dir(str(CONF), version_base=None):
        config = typed(compose("config", ["trainer.device=cpu"]))
    model, B, T = config.model.build(256), config.data.batch_size, config.model.tgt_len
    stream = np.random.default_rng(0).integers(256, size=B * T * 100 + 1, dtype=np.uint8)
    schedule = config.scheduler.build(config.optimizer.lr, config.trainer.max_steps)
    optimizer = config.optimizer.build(model)
    trainer = Trainer(model, Lanes.cut(stream, B, T), optimizer, schedule, config.trainer)
    share_cores()
    started = time.perf_counter()
    while time.perf_counter() - started < 3 * PERIOD:  # neighbours are noticed after one PERIOD
        trainer.update()
    started, before = time.perf_counter(), trainer.tokens
    for _ in range(updates):
        last = trainer.update()
    assert last.loss > 0
    return (trainer.tokens - before) / (time.perf_counter() - started)


def measure(setting: dict[str, str], neighbours: int, updates: int) -> float:
    env = {key: value for key, value in os.environ.items() if key not in WAITING} | setting
    command = [sys.executable, "-m", "experiments.neighbours", "--updates", str(updates), "--measure"]
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(neighbours)]
    try:
        return float(subprocess.run(command, env=env, capture_output=True, check=True).stdout)
    finally:
        for process in busy:
            process.kill()
            process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--updates", type=int, default=30)
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(train(arguments.updates))
        return
    rates: dict[tuple[str, int], list[float]] = {}
    for _ in range(arguments.rounds):
        for neighbours in NEIGHBOURS:
            for name, setting in SETTINGS.items():
                rates.setdefault((name, neighbours), []).append(measure(setting, neighbours, arguments.updates))
    print("| threads | alone | one busy neighbour | two |\n| --- | ---: | ---: | ---: |")
    for name in SETTINGS:
        cells = [f"{statistics.median(rates[name, neighbours]):,.0f}" for neighbours in NEIGHBOURS]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()

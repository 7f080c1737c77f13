"""What one layer of each mixer costs, forward and backward, beside `nn.LSTM`'s of the same width, in turns in one run.

    python -m experiments.mixers
    python -m experiments.mixers --width 256 --lanes 4 --folder /tmp/there

The mixer alone, without norm and feed-forward layer, its settings the defaults of model=stack; its state is carried
from call to call. In every turn each mixer is called once to fill the caches, and then timed. Prints the median of the
turns, and that of the ratios to `lstm` of the same turn; the rows go to logs/mixers.jsonl, in this folder or --folder.

Shapes: B lanes, T tokens of the segment, D width.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch

from experiments.throughput import device_name, table, timed
from tbptt.device import keep_freed_memory
from tbptt.models.mixers import MixerConfig
from tbptt.models.protocol import detach
from tbptt.models.stack import StackConfig
from tbptt.threads import share_cores

HERE = Path(__file__).parent
BASELINE = "lstm"  # which is nn.LSTM
CALLS = 3  # timed in a turn


def mixer_names() -> list[str]:
    return [name for name, value in vars(StackConfig()).items() if isinstance(value, MixerConfig)]


def step(config: MixerConfig, lanes: int, length: int, width: int) -> tuple[Callable[[], None], int]:
    """A function that runs a layer forward and backward over the next segment, and the layer's parameters."""
    torch.manual_seed(1)
    config.check(width)
    mixer = config.build(width, 0, 4)
    mixer.reset_parameters()
    x_BTD, gradient_BTD = torch.randn(2, lanes, length, width)
    x_BTD.requires_grad_()
    state = mixer.initial_state(lanes)

    def run() -> None:
        nonlocal state
        mixer.zero_grad()
        x_BTD.grad = None
        y_BTD, attached = mixer(x_BTD, state)
        y_BTD.backward(gradient_BTD)
        state = detach(attached)

    return run, sum(parameter.numel() for parameter in mixer.parameters())


def measure(names: list[str], lanes: int, length: int, width: int, turns: int) -> list[dict[str, Any]]:
    """One row a mixer."""
    stack, steps, parameters = StackConfig(d_model=width), {}, {}
    for name in dict.fromkeys([BASELINE, *names]):
        steps[name], parameters[name] = step(getattr(stack, name), lanes, length, width)
    ms: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(turns):
        for name, run in steps.items():
            run()
            ms[name].append(1000 * median(timed(run) for _ in range(CALLS)))
    return [
        {
            "mixer": name,
            "parameters": parameters[name],
            "ms": round(median(ms[name]), 2),
            "tokens_per_second": round(1000 * lanes * length / median(ms[name])),
            "times_lstm": round(median(mine / lstm for mine, lstm in zip(ms[name], ms[BASELINE])), 2),
        }
        for name in steps
    ]


def machine() -> dict[str, Any]:
    """What times depend on."""
    cpu = device_name(torch.device("cpu"))
    return {"device": cpu, "threads": torch.get_num_threads(), "torch": torch.__version__}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lanes", type=int, default=8)
    parser.add_argument("--length", type=int, default=256, help="tokens of a segment")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--folder", type=Path, default=HERE)
    options = parser.parse_args()
    keep_freed_memory()
    share_cores()
    rows = measure(mixer_names(), options.lanes, options.length, options.width, options.turns)
    print(table(rows))
    about = {key: getattr(options, key) for key in ("lanes", "length", "width", "turns")}
    about |= machine()
    print("\n" + json.dumps(about))
    (options.folder / "logs").mkdir(parents=True, exist_ok=True)
    with open(options.folder / "logs/mixers.jsonl", "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row | about) + "\n" for row in rows)

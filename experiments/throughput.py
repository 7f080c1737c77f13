"""Training speed of a Transformer-XL on random tokens of Zipf's law: tokens a second, as one JSON line.

    python -m experiments.throughput
    python -m experiments.throughput model=txl_16l data.batch_size=60 --vocabulary 267735 --steps 5

Words with `=` are the same settings as run.py's. Without any, the shape is the one the original's code was timed at on
two cores of a processor: 4 layers, d 128, 4 heads of 32, inner 512, segment = memory = 64, 8 lanes, 32,632 words.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path

import numpy as np
import torch
from hydra import compose, initialize_config_dir

from tbptt.config import register, typed
from tbptt.data.lanes import Lanes
from tbptt.device import parameter_dtype, pick_device
from tbptt.training.trainer import Trainer

CONF = Path(__file__).resolve().parents[1] / "conf"
CPU_SHAPE = [
    "model.n_layer=4", "model.d_model=128", "model.n_head=4", "model.d_head=32", "model.d_inner=512",
    "model.cutoffs=[2000,8000,20000]", "model.dropout=0.1", "model.tgt_len=64", "model.mem_len=64", "data.batch_size=8",
    "optimizer.lr=2.5e-4",
]  # fmt: skip


def zipf_tokens(n_tokens: int, vocabulary: int) -> np.ndarray:
    """Words drawn with probability falling as 1 / (rank + 2.7)^1.07, as in English text."""
    weights = 1 / (np.arange(1, vocabulary + 1) + 2.7) ** 1.07
    return np.random.default_rng(1).choice(vocabulary, size=n_tokens, p=weights / weights.sum())


def measure(overrides: list[str], vocabulary: int, steps: int) -> dict:
    """Median seconds of an update, after some to warm up with full memory."""
    register()
    with initialize_config_dir(str(CONF), version_base=None):
        config = typed(compose("config", overrides or CPU_SHAPE))
    torch.manual_seed(1)
    device = pick_device(config.trainer.device)
    model = config.model.build(vocabulary, config.trainer.activation_checkpointing)
    model.to(device, parameter_dtype(config.trainer.precision))
    tokens = zipf_tokens((steps + 5) * config.data.batch_size * config.model.tgt_len + 1, vocabulary)
    lanes = Lanes.cut(tokens, config.data.batch_size, config.model.tgt_len)
    schedule = config.scheduler.build(config.optimizer.lr, config.trainer.max_steps)
    trainer = Trainer(model, lanes, config.optimizer.build(model.parameters()), schedule, config.trainer, device)
    seconds = []
    for _ in range(steps + 5):
        started = time.perf_counter()
        update = trainer.update()
        seconds.append(time.perf_counter() - started)
    median = float(np.median(seconds[5:]))
    return {
        "tokens_per_second": round(update.tokens / median, 1),
        "ms_per_step": round(1000 * median, 2),
        "params": sum(parameter.numel() for parameter in model.parameters()),
        "precision": config.trainer.precision.name,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "cpu",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--vocabulary", type=int, default=32_632)
    parser.add_argument("--steps", type=int, default=40)
    arguments = parser.parse_args()
    print(json.dumps(measure(arguments.overrides, arguments.vocabulary, arguments.steps)))

"""How fast training and evaluation are, on random tokens of Zipf's law: a table, and the same as JSON lines.

    python -m experiments.throughput                                       # on a processor: a small model, a minute
    python -m experiments.throughput model=txl_16l trainer.precision=bf16  # on a GPU: the paper's base run, minutes
    python -m experiments.throughput model=txl_16l trainer.precision=bf16 --paths fused+graphs --json rows.jsonl
    python -m experiments.throughput model=gdn_tiny                        # a stack

Words with `=` are the same settings as run.py's. Without any, the shape is the one the original's code was timed at on
two cores of a processor: 4 layers, d 128, 4 heads of 32, inner 512, segment = memory = 64, 8 lanes, 32,632 words. A
path is plain or fused, compiled or not, launched kernel by kernel or as CUDA graphs; each trains, and each evaluates as
the `eval` group says: `ms` is an update's time or that of the whole evaluation, `first_s` what the first one took (for
an evaluation: took longer), `peak_GiB` what tensors took at most, `reserved_GiB` what they and CUDA graphs keep,
`input_share` what cutting, sorting and sending the tokens takes of an update, all of it on the host while a GPU
computes. `flop_utilisation` is counted for Transformer-XL alone, from its definition.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from tbptt.cli.config import Config, register, typed
from tbptt.data.corpora import corpus_named
from tbptt.data.lanes import Lanes
from tbptt.device import MIXED, keep_freed_memory, parameter_dtype, pick_device
from tbptt.errors import UserError
from tbptt.evaluation.score import score
from tbptt.launch.world import World
from tbptt.models import ModelConfig
from tbptt.models.compilation import compile_blocks
from tbptt.models.mixers import RelativeAttentionConfig
from tbptt.models.stack import StackConfig
from tbptt.models.transformer_xl import TransformerXLConfig
from tbptt.threads import share_cores
from tbptt.training.trainer import Trainer

CONF = Path(__file__).resolve().parents[1] / "conf"
CPU_SHAPE = [
    "model.n_layer=4", "model.d_model=128", "model.n_head=4", "model.d_head=32", "model.d_inner=512",
    "model.cutoffs=[2000,8000,20000]", "model.dropout=0.1", "model.tgt_len=64", "model.mem_len=64", "data.batch_size=8",
    "optimizer.lr=2.5e-4",
]  # fmt: skip
PEAK = {"H100": 989e12, "H200": 989e12, "A100": 312e12}  # dense products of 16 bits a second, as NVIDIA states them
PATHS = ("plain", "plain+compiled", "fused", "fused+compiled", "fused+graphs", "fused+compiled+graphs")
WARM_UP = 5  # updates, until memory is full


def composed_with(words: list[str]) -> Config:
    """The configuration of a command line; a wrong one ends the process with a sentence."""
    register()
    try:
        with initialize_config_dir(str(CONF), version_base=None):
            return typed(compose("config", words))
    except (HydraException, OmegaConfBaseException, UserError) as error:
        raise SystemExit(f"Error: {str(error).splitlines()[0]}") from None


def implementation_keys(model: ModelConfig) -> list[str]:
    """The settings that choose between a plain and a fused form in this model's layers."""
    if isinstance(model, StackConfig):
        mixers = model.mixers()
        keys = {
            "model.relative_attention.attention": any(isinstance(mixer, RelativeAttentionConfig) for mixer in mixers),
            "model.kernels": any(mixer.kernel_sizes() for mixer in mixers),
        }
        return [key for key, applies in keys.items() if applies]
    return ["model.attention"] if isinstance(model, TransformerXLConfig) else []


def zipf_tokens(n_tokens: int, vocabulary: int) -> np.ndarray:
    """Words drawn with probability falling as 1 / (rank + 2.7)^1.07, as in English text."""
    weights = 1 / (np.arange(1, vocabulary + 1) + 2.7) ** 1.07
    return np.random.default_rng(1).choice(vocabulary, size=n_tokens, p=weights / weights.sum())


def forward_flops(c: TransformerXLConfig, tokens: np.ndarray, vocabulary: int, training: bool = True) -> float:
    """Arithmetic of the products of one token's forward pass with full memory, as the definition needs them.

    In training, the keys of memory and segment are projected anew in every segment; a query meets the keys it sees, and
    a tail scores the words that lie in it. (A backward pass is counted as two such passes.)
    """
    F, keys = c.n_head * c.d_head, 1 + training * c.mem_len / c.tgt_len
    seen = c.mem_len if c.same_length else c.mem_len + (c.tgt_len + 1) / 2
    layer = c.d_model * F * (2 + 2 * keys) + 3 * seen * F + 2 * c.d_model * c.d_inner
    edges, d_embed = [0, *c.cutoffs, vocabulary], c.d_embed or c.d_model
    shares = np.histogram(tokens, edges)[0] / len(tokens)
    sizes = [d_embed // c.div_val**i for i in range(len(shares))]
    words = [edges[1] + len(c.cutoffs), *np.diff(edges)[1:]]
    softmax = sum(share * size * n for share, size, n in zip([1, *shares[1:]], sizes, words))
    return 2 * (c.n_layer * layer + softmax)


def measure(config: Config, vocabulary: int, steps: int, eval_tokens: int, path: str) -> list[dict[str, Any]]:
    """One row for training (the median of `steps` updates) and one for evaluation."""
    torch.manual_seed(1)
    torch.compiler.reset()
    gc.collect()
    config.trainer.cuda_graphs = "graphs" in path
    device, precision = pick_device(config.trainer.device), config.trainer.precision
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.cuda.empty_cache()
    model = config.model.build(vocabulary, config.trainer.activation_checkpointing)
    model.to(device, parameter_dtype(precision))
    if "compiled" in path:
        compile_blocks(model)
    T, B = config.model.tgt_len, config.data.batch_size
    tokens = zipf_tokens(max((steps + WARM_UP + 1) * B * T, eval_tokens) + 1, vocabulary)
    lanes = Lanes.cut(tokens, B, T)
    peak = next((flops for name, flops in PEAK.items() if device.type == "cuda" and name in device_name(device)), None)

    def row(task: str, run: Callable[[], tuple[float, float, int]], shape: ModelConfig, passes: int) -> dict:
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        first, seconds, n = run()
        rate = n / seconds
        used = None
        if peak and precision in MIXED and isinstance(shape, TransformerXLConfig):
            used = passes * forward_flops(shape, tokens, vocabulary, training=task == "train") * rate / peak
        allocated = torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else None
        reserved = torch.cuda.max_memory_reserved(device) / 2**30 if device.type == "cuda" else None
        return {
            "task": task,
            "path": path,
            "tokens_per_second": round(rate, 1),
            "ms": round(1000 * seconds, 2),
            "flop_utilisation": used and round(used, 3),
            "peak_GiB": allocated and round(allocated, 2),
            "reserved_GiB": reserved and round(reserved, 2),
            "first_s": round(first, 2),
            "input_share": round(input_seconds() / seconds, 5) if task == "train" else None,
        }

    def input_seconds() -> float:
        """What the host spends on cutting a segment, sorting its words and sending it, while the device computes."""

        def cut_and_send(index: int) -> None:
            for x in lanes.segment(index):
                model.send(x, device)

        return float(np.median([timed(partial(cut_and_send, i % len(lanes))) for i in range(100)]))

    def train() -> tuple[float, float, int]:
        schedule = config.scheduler.build(config.optimizer.lr, config.trainer.max_steps)
        optimizer = config.optimizer.build(model)
        trainer = Trainer(model, lanes, optimizer, schedule, config.trainer, World(device=device))
        first = timed(lambda: trainer.update().loss)
        seconds = [timed(trainer.update) for _ in range(steps + WARM_UP)]
        return first, float(np.median(seconds[WARM_UP:])), B * T

    def evaluate() -> tuple[float, float, int]:
        first, second = (
            timed(lambda: score(model, tokens[: eval_tokens + 1], config.eval, T, precision)) for _ in range(2)
        )
        return max(0.0, first - second), second, eval_tokens

    evaluated = config.model
    if isinstance(evaluated, TransformerXLConfig):
        evaluated = replace(evaluated, **config.eval.context(), tgt_len=config.eval.tgt_len or T)
    return [row("train", train, config.model, 3), row("eval", evaluate, evaluated, 1)]


def timed(work: Callable[[], object]) -> float:
    """Seconds. An evaluation ends with a number on the host; an update ends when a GPU is done with the one before."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "cpu"


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    lines = ["| " + " | ".join(rows[0]) + " |", "| --- | --- |" + " ---: |" * (len(rows[0]) - 2)]
    for row in rows:
        lines.append("| " + " | ".join("" if value is None else f"{value:,}" if isinstance(value, float) else str(value)
                                       for value in row.values()) + " |")  # fmt: skip
    return "\n".join(lines)


def main() -> None:
    on_gpu = torch.cuda.is_available()
    keep_freed_memory()
    share_cores()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", default=[])
    parser.add_argument("--vocabulary", type=int, help="words; by default those of the corpus if known, else 32,632")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--eval-tokens", type=int, default=245_568 if on_gpu else 16_384)
    parser.add_argument("--paths", nargs="+", choices=PATHS, help="on a GPU all that the model has, else plain")
    parser.add_argument("--json", type=Path, help="append the rows to this file, one JSON object a line")
    arguments = parser.parse_args()
    words = arguments.overrides or CPU_SHAPE
    given = composed_with(words)
    keys = implementation_keys(given.model)
    possible = [path for path in PATHS if keys or "fused" not in path]
    paths = arguments.paths or (possible if on_gpu else PATHS[:1])
    if impossible := [path for path in paths if path not in possible]:
        parser.error(f"--paths {' '.join(impossible)}: model={given.model.name} has no fused form in these layers")
    # On a CPU `auto` is plain too, but trains in fewer operations than the definition.
    forms = ["auto" if "plain" in path and not on_gpu else path.split("+")[0] for path in paths]
    configs = [composed_with([*words, *(f"{key}={form}" for key in keys)]) for form in forms]
    for config in configs:
        try:
            config.model.check_precision(config.trainer.precision, pick_device(config.trainer.device))
        except UserError as error:
            parser.error(f"--paths {' '.join(paths)}: {error}")
    of_corpus = corpus_named(given.data.name).vocab_size(given.data) if arguments.overrides else None
    vocabulary = arguments.vocabulary or of_corpus or 32_632
    about = {
        "settings": words,
        "vocabulary": vocabulary,
        "precision": configs[0].trainer.precision.name,
        "device": device_name(pick_device(configs[0].trainer.device)),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    print(json.dumps(about) + "\n", flush=True)
    for number, (config, path) in enumerate(zip(configs, paths)):
        rows = measure(config, vocabulary, arguments.steps, arguments.eval_tokens, path)
        print("\n".join(table(rows).splitlines()[2 * (number > 0) :]), flush=True)
        if arguments.json:  # at once: the time for all paths may not suffice
            with open(arguments.json, "a", encoding="utf-8") as file:
                file.writelines(json.dumps(row | about) + "\n" for row in rows)


if __name__ == "__main__":
    main()

"""The same global lanes on 1, 2, 3 and 4 processes, in any micro-batches: how far losses, gradients and weights differ.

python -m experiments.world_sizes     prints the table of RESULTS.md (real processes, gloo, about a minute)
"""

from __future__ import annotations

import multiprocessing
import socket
import sys
import tempfile
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tbptt.cli.processes import join_world
from tbptt.data.document_lanes import DocumentLanes
from tbptt.data.lanes import Lanes
from tbptt.device import Precision, parameter_dtype
from tbptt.launch.rank_info import RankInfo
from tbptt.launch.world import World
from tbptt.models.lstm import LSTMConfig
from tbptt.models.mixers import AttentionConfig, GatedDeltaConfig, RelativeAttentionConfig
from tbptt.models.protocol import ModelConfig
from tbptt.models.stack import StackConfig
from tbptt.models.transformer_xl import TransformerXLConfig
from tbptt.training.config import Reduce, ResetState, TrainerConfig
from tbptt.training.optimizers import AdamConfig
from tbptt.training.schedules import CosineConfig
from tbptt.training.trainer import Trainer

LANES, VOCABULARY, STEPS = 6, 50, 12  # 6 lanes do not divide evenly by 4
SIZES = {"d_model": 16, "n_layer": 3, "dropout": 0.0, "tgt_len": 5}
TRANSFORMER_XL = TransformerXLConfig(
    **SIZES, n_head=2, d_head=8, d_inner=24, mem_len=7, dropatt=0.0, cutoffs=[10, 25], div_val=2
)
HYBRID = StackConfig(
    **SIZES,
    layers=["gated_delta", "attention", "relative_attention"],
    d_inner=24,
    gated_delta=GatedDeltaConfig(n_head=2, d_key=8, d_value=8, chunk_len=4),
    attention=AttentionConfig(n_head=2, d_head=8, window=6),
    relative_attention=RelativeAttentionConfig(n_head=2, d_head=8, mem_len=7),
)
MODELS: dict[str, ModelConfig] = {
    "Transformer-XL": TRANSFORMER_XL,
    "LSTM": LSTMConfig(**SIZES),
    "hybrid": HYBRID,
    "hybrid, documents": HYBRID,
}
WINDOWS = {"LSTM": 2, "hybrid": 3, "hybrid, documents": 2}  # segments of an update, where not 1
SHUFFLE_SEEDS = {"hybrid": 5, "hybrid, documents": 5}  # the others read their lanes in order
DOCUMENTS = {"hybrid, documents": [1, 2, 3, 30, 9, 4]}  # their lengths, over and over; they reset the state
MICRO_BATCHES = (None, 2, 1)
WORLD_SIZES = (1, 2, 3, 4)


@dataclass(frozen=True)
class Job:
    """A training run, or the continuation of what another one left (`start`)."""

    model: str
    precision: Precision
    micro_batch: int | None
    steps: int = STEPS
    start: dict[str, Any] | None = None
    reduce: Reduce = Reduce.exact


def run(world: World, job: Job) -> dict[str, Any]:
    """Losses, the gradients of the last step, the weights, and all that a checkpoint would hold."""
    settings, precision = MODELS[job.model], job.precision
    stream = np.random.default_rng(0).integers(VOCABULARY, size=700).astype(np.uint8)
    torch.manual_seed(3)
    model = settings.build(VOCABULARY).to(dtype=parameter_dtype(precision))
    optimizer, sizes = AdamConfig(lr=0.003), (LANES, settings.tgt_len, SHUFFLE_SEEDS.get(job.model))
    lanes: Lanes | DocumentLanes = Lanes.cut(stream, *sizes)
    if lengths := DOCUMENTS.get(job.model):
        starts_D = np.cumsum([0, *lengths * len(stream)])
        lanes = DocumentLanes(stream, starts_D[starts_D < len(stream)], *sizes)
    config = TrainerConfig(
        window=WINDOWS.get(job.model, 1),
        reset_state=ResetState.document if job.model in DOCUMENTS else ResetState.epoch,
        max_steps=2 * STEPS,
        micro_batch=job.micro_batch,
        reduce=job.reduce,
        precision=precision,
        device="cpu",
    )
    schedule = CosineConfig().build(optimizer.lr, config.max_steps)
    trainer = Trainer(model, lanes, optimizer.build(model), schedule, config, world)
    if job.start:
        start = deepcopy(job.start)  # an optimizer keeps what it is given, and changes it
        model.load_state_dict(start["weights"])
        trainer.load_state_dict(start["trainer"])
    losses = torch.tensor([trainer.update().loss for _ in range(job.steps)], dtype=torch.float64)
    gradients = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    return {"losses": losses, "gradients": gradients, "weights": weights, "trainer": trainer.state_dict()}


def in_world(size: int, jobs: list[Job]) -> list[dict[str, Any]]:
    """Rank 0's results of `jobs`, computed one after the other by `size` processes."""
    if size == 1:
        return [run(World(), job) for job in jobs]
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as free:
        port, file = free.getsockname()[1], Path(folder) / "results"
        free.close()
        context = multiprocessing.get_context("spawn")
        arguments = [(RankInfo("test", rank, size, rank, size, port=port), jobs, file) for rank in range(size)]
        ranks = [context.Process(target=_rank, args=given) for given in arguments]
        for rank in ranks:
            rank.start()
        for rank in ranks:
            rank.join()
        if any(rank.exitcode for rank in ranks):
            sys.exit(f"the ranks ended with {[rank.exitcode for rank in ranks]}")
        return torch.load(file)


def _rank(rank_info: RankInfo, jobs: list[Job], file: Path) -> None:
    torch.set_num_threads(1)
    with join_world(rank_info, torch.device("cpu"), file.parent, {}) as world:
        results = [run(world, job) for job in jobs]
        if world.is_main:
            torch.save(results, file)


def difference(result: Any, expected: Any) -> dict[str, float]:
    """The largest relative difference of a loss; of gradients and weights the norm of the difference by the norm."""
    flat = [torch.cat([x.flatten() for x in each["weights"].values()]) for each in (result, expected)]
    return {
        "losses": ((result["losses"] - expected["losses"]).abs() / expected["losses"]).max().item(),
        "gradients": ((result["gradients"] - expected["gradients"]).norm() / expected["gradients"].norm()).item(),
        "weights": ((flat[0] - flat[1]).norm() / flat[1].norm()).item(),
    }


def table() -> Iterator[tuple[int, Job, dict[str, float]]]:
    """(world size, job, differences from one process that runs all lanes at once), for every combination."""
    precisions = (Precision.fp64, Precision.fp32)
    jobs = [Job(name, precision, size) for name in MODELS for precision in precisions for size in MICRO_BATCHES]
    plain = dict(zip(((job.model, job.precision) for job in jobs if job.micro_batch is None), in_world(1, jobs[::3])))
    for size in WORLD_SIZES:
        for job, result in zip(jobs, in_world(size, jobs)):
            yield size, job, difference(result, plain[job.model, job.precision])


if __name__ == "__main__":
    print(f"{LANES} lanes, {STEPS} updates; differences from one process that runs all lanes at once, relative\n")
    print("| processes | model | precision | micro-batch | losses | gradients | weights |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for size, job, found in table():
        numbers = " | ".join(f"{value:.1e}" for value in found.values())
        print(f"| {size} | {job.model} | {job.precision.name} | {job.micro_batch or 'all'} | {numbers} |", flush=True)

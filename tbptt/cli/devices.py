"""The processes that share a task, one per GPU, and the device of each."""

from __future__ import annotations

import torch

from tbptt.cli.config import Config, Task
from tbptt.device import keep_freed_memory, pick_device
from tbptt.errors import UserError
from tbptt.launch.rank_info import RankInfo
from tbptt.threads import share_cores


def runs_in_parallel(config: Config) -> bool:
    """Whether several processes share the task. Dynamic evaluation and generation run in one process."""
    return config.task is Task.train or (config.task is Task.eval and not config.eval.dynamic.enabled)


def process_count(config: Config, rank_info: RankInfo) -> int:
    """How many processes to start: 1 if a launcher has started them already. UserError if settings contradict it."""
    device, visible = pick_device(config.trainer.device), torch.cuda.device_count()
    if rank_info.launcher:
        _check_launched(config, rank_info, device, visible)
    devices, lanes = config.trainer.devices, config.data.batch_size
    here, requested = (max(size, devices or 1) for size in (rank_info.local_size, rank_info.size))
    if device.index is not None and here > 1:
        raise UserError(
            f"trainer.device={config.trainer.device} names one GPU for {here} processes: use trainer.device=cuda, and "
            "CUDA_VISIBLE_DEVICES to choose the GPUs"
        )
    if config.task is Task.train and requested > lanes:
        raise UserError(
            f"data.batch_size={lanes} lanes are too few for {requested} processes: use at most {lanes}, or more lanes"
        )
    if rank_info.launcher or not runs_in_parallel(config):
        return 1
    count = devices or (visible if device.type == "cuda" and device.index is None else 1)
    if device.type == "cuda" and count > visible:
        raise UserError(f"trainer.devices={count}, but this machine has {visible} visible GPUs: use {visible} or fewer")
    return min(count, lanes) if config.task is Task.train else count


def _check_launched(config: Config, rank_info: RankInfo, device: torch.device, visible: int) -> None:
    """UserError for processes of a launcher that do not fit the settings or the GPUs of this machine."""
    if config.trainer.devices not in (None, rank_info.size, rank_info.local_size):
        raise UserError(
            f"trainer.devices={config.trainer.devices}, but {rank_info.launcher} started {rank_info.size} processes: "
            "do not set trainer.devices"
        )
    if device.type != "cuda" or visible < 2:
        return
    one_task = rank_info.launcher == "submitit" and rank_info.size == 1
    if one_task and config.trainer.devices is None and runs_in_parallel(config):
        raise UserError(
            f"this job has one task for {visible} GPUs: use one task per GPU (hydra.launcher.tasks_per_node={visible})"
        )
    if rank_info.local_size > visible:
        raise UserError(
            f"{rank_info.local_size} processes on this machine share {visible} GPUs: start one process per GPU"
        )


def rank_device(config: Config, rank_info: RankInfo) -> torch.device:
    """The device of this rank: its GPU among the visible ones, or the device set by trainer.device."""
    device = pick_device(config.trainer.device)
    if device.type == "cpu":
        keep_freed_memory()
        share_cores()
    if device.type != "cuda":
        return device
    if device.index is None or rank_info.size > 1:
        device = torch.device("cuda", rank_info.local_rank if torch.cuda.device_count() > 1 else 0)
    torch.cuda.set_device(device)
    torch.backends.cudnn.allow_tf32 = False  # torch's default for LSTMs, though not for other products
    return device

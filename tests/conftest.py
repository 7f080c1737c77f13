"""Settings of the whole suite: the same hypothesis examples every time, no deadlines, one thread a process."""

import sys
from pathlib import Path

import torch
from hypothesis import HealthCheck, settings

sys.path.insert(0, str(Path(__file__).parents[1]))  # for experiments/, which is not installed

settings.register_profile(
    "tbptt",
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("tbptt")
torch.set_num_threads(1)

"""How the threads of a CPU wait for each other, chosen before torch is loaded, which reads it once.

libgomp's threads spin at a barrier before they sleep. That is fastest on a machine that does nothing else; beside other
busy processes they spin while the thread that they wait for does not run (experiments/neighbours.py).
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping

POLICY = "OMP_WAIT_POLICY"
OURS = "TBPTT_WAIT_POLICY"  # marks a choice of ours: a job on another machine inherits it, and chooses anew


def choose_wait_policy(env: MutableMapping[str, str], load: float, cores: int) -> None:
    """Let threads sleep at once where the machine is busy already, unless the user has said how they are to wait.

    `load` is the mean number of processes that ran in the last minute.
    """
    if env.pop(OURS, None):
        env.pop(POLICY, None)
    if POLICY not in env and "GOMP_SPINCOUNT" not in env and load > cores / 2:
        env[POLICY] = env[OURS] = "passive"


choose_wait_policy(os.environ, os.getloadavg()[0], len(os.sched_getaffinity(0)))

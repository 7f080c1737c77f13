"""How the threads of a CPU wait for each other, chosen before torch is loaded, which reads it once.

libgomp's threads spin at a barrier for some ten milliseconds before they sleep. That is fastest on a machine that does
nothing else; beside other busy processes they spin while the thread that they wait for does not run, and training falls
to a quarter of its speed. Spinning for some tens of microseconds costs little on a quiet machine and bears a neighbour
that comes later; sleeping at once is best where there are neighbours already (experiments/neighbours.py).
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping

POLICY, SPIN = "OMP_WAIT_POLICY", "GOMP_SPINCOUNT"
OURS = "TBPTT_WAIT_POLICY"  # names a choice of ours: a job on another machine inherits it, and chooses anew
SPIN_COUNT = "1000"


def choose_wait_policy(env: MutableMapping[str, str], load: float, cores: int) -> None:
    """Let threads spin shortly, or not at all where the machine is busy, unless the user has said how they are to wait.

    `load` is the mean number of processes that ran in the last minute.
    """
    env.pop(env.pop(OURS, ""), None)
    if POLICY not in env and SPIN not in env:
        env[OURS], value = (POLICY, "passive") if load > cores / 2 else (SPIN, SPIN_COUNT)
        env[env[OURS]] = value


choose_wait_policy(os.environ, os.getloadavg()[0], len(os.sched_getaffinity(0)))

"""How the ranks of a run find each other, and prove that they belong together before anything is computed.

Rank 0 opens a TCPStore and writes its identity into it; the other ranks connect and compare it with their own. Ports
are used again, one SLURM job may run several steps, and a rank of an earlier start may still be alive: such a process
is refused with the name of the run that it has met.
"""

from __future__ import annotations

import json
import os
import socket
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from tbptt.errors import UserError
from tbptt.launch.rank_info import RankInfo

PATIENCE = timedelta(minutes=10)  # for all ranks to arrive: nodes of a cluster do not start at the same moment


class RendezvousError(UserError):
    """This process did not meet the other ranks of its run; it has nobody who would report that for it."""


def meet(rank_info: RankInfo, settings: dict[str, Any], patience: timedelta = PATIENCE) -> dist.Store:
    """The store of this run, once all of its ranks are there. Collective.

    `settings` are those that define the run's numbers, the same on all ranks. RendezvousError if the process that
    answers at the address is of another run, if another process has this rank already, or if a rank does not come in
    time.
    """
    process = f"process {os.getpid()} on {socket.gethostname()}"
    identity = {"launch": rank_info.launch, "size": rank_info.size, "settings": settings, "process": process}
    mine = json.dumps(identity, sort_keys=True, default=str)
    # torchrun keeps its store when it restarts the ranks, and keys of its own in it.
    prefix = f"tbptt restart {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    store = dist.PrefixStore(prefix, _open(rank_info, patience))
    # Rank 0 writes only where nothing is written yet: a store that the launcher owns may hold another rank 0's.
    theirs = store.compare_set("identity", "", mine) if rank_info.rank == 0 else _read(store, rank_info)
    _refuse_other(rank_info, json.loads(mine), json.loads(theirs))
    if store.add(f"arrived/{rank_info.rank}", 1) > 1:
        raise RendezvousError(
            f"rank {rank_info.rank} of {rank_info.size} is at {rank_info.where} already: a process of an earlier start "
            "is still alive, or two were started with the same RANK"
        )
    _wait_for_all(store, rank_info, patience)
    return store


def _open(rank_info: RankInfo, patience: timedelta) -> dist.Store:
    """The store at the address of rank 0, opened there by rank 0 unless the launcher has done so."""
    opens = rank_info.rank == 0 and not rank_info.store_is_open
    try:
        return dist.TCPStore(
            rank_info.address, rank_info.port, None, is_master=opens, timeout=patience, wait_for_workers=False
        )
    except (RuntimeError, dist.DistError) as error:
        failed = "rank 0 cannot listen" if opens else f"rank {rank_info.rank} found no rank 0"
        hint = ", where another run may listen already" if opens else ""
        raise RendezvousError(f"{failed} at {rank_info.where}{hint}: {_first_line(error)}") from error


def _read(store: dist.Store, rank_info: RankInfo) -> str:
    try:
        return store.get("identity").decode()
    except (RuntimeError, dist.DistError) as error:
        raise RendezvousError(f"no rank 0 of a run answered at {rank_info.where}: {_first_line(error)}") from error


def _refuse_other(rank_info: RankInfo, ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """RendezvousError unless `theirs`, the identity of the rank 0 at the address, is of the same run as `ours`."""
    compared = ["launch", "size", *(["process"] if rank_info.rank == 0 else [])]
    differing = [key for key in compared if ours[key] != theirs.get(key)]
    differing += sorted(_differing_keys(ours["settings"], theirs.get("settings")))
    if differing:
        raise RendezvousError(
            f"rank {rank_info.rank} of {ours['launch']} met rank 0 of {theirs.get('launch')} ({theirs.get('process')}) "
            f"at {rank_info.where}, which belongs to another run: {', '.join(differing[:5])} differ. Wait until that "
            "run has ended, or give each run a port or a SLURM step of its own"
        )


def _differing_keys(ours: Any, theirs: Any, path: str = "") -> set[str]:
    if isinstance(ours, dict) and isinstance(theirs, dict):
        inner = (
            _differing_keys(ours.get(key), theirs.get(key), f"{path}.{key}") for key in ours.keys() | theirs.keys()
        )
        return set().union(*inner)
    return set() if ours == theirs else {path.lstrip(".")}


def _wait_for_all(store: dist.Store, rank_info: RankInfo, patience: timedelta) -> None:
    arrived = [f"arrived/{rank}" for rank in range(rank_info.size)]
    try:
        store.wait(arrived, patience)
    except (RuntimeError, dist.DistError) as error:
        raise RendezvousError(
            f"waited {patience.total_seconds():.0f} s at {rank_info.where} for {rank_info.size} ranks, of which "
            f"{_missing(store, arrived)} did not come"
        ) from error


def _missing(store: dist.Store, arrived: list[str]) -> str:
    try:
        return ", ".join(str(rank) for rank, key in enumerate(arrived) if not store.check([key]))
    except (RuntimeError, dist.DistError):  # rank 0 has given up before, and its store with it
        return "some"


def _first_line(error: Exception) -> str:
    return str(error).split("\n")[0].strip()

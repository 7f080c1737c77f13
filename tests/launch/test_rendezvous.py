"""Ranks of one run meet; whoever is of another run is refused by name, and does not disturb those who meet."""

import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta

import pytest

from tbptt.launch.rank_info import RankInfo
from tbptt.launch.rendezvous import RendezvousError, meet

SETTINGS = {"task": "train", "optimizer": {"lr": 0.1}}
PATIENCE = timedelta(seconds=20)


@pytest.fixture
def ranks():
    """Three ranks of one launch."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    return [RankInfo("slurm", rank, 3, rank, 3, port=port, launch="SLURM job 1 step 0 restart 0") for rank in range(3)]


def outcomes(processes, patience=PATIENCE):
    """What becomes of each (rank, settings) that comes to the meeting, in this order: its store, or its error."""
    with ThreadPoolExecutor(len(processes)) as pool:
        meetings = [pool.submit(meet, rank, settings, patience) for rank, settings in processes]
        return [meeting.exception() or meeting.result() for meeting in meetings]


def test_ranks_of_one_run_meet(ranks):
    stores = outcomes([(rank, SETTINGS) for rank in ranks])
    stores[2].set("key", "value")
    assert [store.get("key") for store in stores] == [b"value"] * 3


@pytest.mark.parametrize(
    ("change", "settings", "differs"),
    [
        ({"launch": "SLURM job 1 step 1 restart 0"}, SETTINGS, "launch differ"),
        ({"launch": "SLURM job 1 step 0 restart 1"}, SETTINGS, "launch differ"),
        ({"size": 4}, SETTINGS, "size differ"),
        ({}, SETTINGS | {"optimizer": {"lr": 0.2}}, "optimizer.lr differ"),
        ({}, SETTINGS | {"task": "eval"}, "task differ"),
    ],
)
def test_a_stranger_is_refused_by_name_and_the_run_still_meets(ranks, change, settings, differs):
    stranger = replace(ranks[1], **change)
    met = outcomes([(ranks[0], SETTINGS), (stranger, settings), *((rank, SETTINGS) for rank in ranks[1:])])
    refused = met.pop(1)
    assert isinstance(refused, RendezvousError)
    assert differs in str(refused) and "SLURM job 1 step 0" in str(refused) and ranks[0].where in str(refused)
    met[0].set("key", "value")
    assert [store.get("key") for store in met] == [b"value"] * 3


def test_a_port_that_another_run_listens_at_is_refused(ranks):
    with socket.create_server(("127.0.0.1", ranks[0].port)):
        with pytest.raises(RendezvousError, match=r"rank 0 cannot listen at .* another run"):
            meet(ranks[0], SETTINGS, PATIENCE)


def test_a_rank_0_in_the_store_of_another_launch_is_refused(ranks):
    """As under torchrun, whose agent serves the store."""
    first = meet(replace(ranks[0], size=1), SETTINGS, PATIENCE)
    with pytest.raises(RendezvousError, match="belongs to another run: launch"):
        meet(replace(ranks[0], size=1, launch="torchrun b", store_is_open=True), SETTINGS, PATIENCE)
    assert first.get("identity")


def test_a_second_process_of_the_same_rank_is_refused(ranks):
    met = outcomes([*((rank, SETTINGS) for rank in ranks), (ranks[1], SETTINGS)])
    refused = [each for each in met if isinstance(each, RendezvousError)]
    assert len(refused) == 1 and "rank 1 of 3 is at" in str(refused[0])


def test_a_rank_that_does_not_come_is_named(ranks):
    refused = outcomes([(rank, SETTINGS) for rank in ranks[:2]], timedelta(seconds=6))
    assert all(isinstance(each, RendezvousError) for each in refused)
    assert any("of which 2 did not come" in str(each) for each in refused)  # whose store is there to be asked

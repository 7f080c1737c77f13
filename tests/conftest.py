"""What the whole suite shares: the same hypothesis examples every time, no deadlines, one thread; fixtures.

Without a GPU, Triton's kernels run on its interpreter."""

import os
from collections.abc import Iterator
from dataclasses import replace

import pytest

os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that tests start, the server of forked commands among them
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # deterministic products on a GPU, before torch 2.10
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when Triton and the choice of attention are imported
from hypothesis import HealthCheck, settings

from tbptt.data.corpora import CORPORA, OneFile
from tests.data.archives import MEMBERS, TEST, TRAIN, VALID
from tests.data.server import Site, serving

settings.register_profile(
    "tbptt",
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("tbptt")
torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first, so that at the end no worker is alone with a long one."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture
def site() -> Iterator[Site]:
    with serving() as site:
        yield site


@pytest.fixture
def small_corpora(monkeypatch):
    """Corpora of one file with splits as short as these, and archives of any content."""
    edges = (0, len(TRAIN), len(TRAIN + VALID), len(TRAIN + VALID + TEST))
    monkeypatch.setattr(OneFile, "EDGES", edges)
    for name in MEMBERS:
        archive = replace(CORPORA[name].archive, size=None, sha256=None)
        monkeypatch.setitem(CORPORA, name, replace(CORPORA[name], archive=archive))

"""Memory of tensors on a processor: what they give back stays with the process, and it lies on huge pages."""

import subprocess
import sys
from pathlib import Path

import pytest

FAULTS = """
import resource, torch
from tbptt.device import keep_freed_memory
torch.set_num_threads(1)
keep_freed_memory()
def faults(times):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        [torch.zeros(500_000) for _ in range(40)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(faults(3), faults(5))
"""
HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def faults() -> tuple[int, int]:
    """Page faults while 80 MB are used for the first times, and later."""
    result = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, check=True)
    first, later = map(int, result.stdout.split())
    return first, later


@pytest.mark.skipif(sys.platform != "linux", reason="how memory is given back is glibc's")
@pytest.mark.parametrize("_", range(3))  # without keep_freed_memory, two processes in three have 97,500 faults
def test_freed_memory_is_used_again_without_page_faults(_):
    assert faults()[1] < 1000


@pytest.mark.skipif(
    not HUGE_PAGES.exists() or "[never]" in HUGE_PAGES.read_text(encoding="utf-8"), reason="no huge pages here"
)
def test_memory_lies_on_huge_pages():
    assert faults()[0] < 5000  # 19,500 pages of 4 KB

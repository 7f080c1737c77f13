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
def use():
    [torch.zeros(500_000) for _ in range(40)]
for _ in range(3):
    use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
ADVICE = """
import torch
from tbptt.device import keep_freed_memory
keep_freed_memory()
address, inside = [torch.zeros(500_000) for _ in range(10)][-1].data_ptr(), False
for line in open("/proc/self/smaps", encoding="utf-8"):
    first, *rest = line.split()
    if "-" in first:
        start, end = (int(x, 16) for x in first.split("-"))
        inside = start <= address < end
    elif first == "VmFlags:" and inside:
        print("hg" in rest)
"""


def output(script: str) -> str:
    return subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, text=True).stdout.strip()


@pytest.mark.skipif(sys.platform != "linux", reason="how memory is given back is glibc's")
@pytest.mark.parametrize("_", range(3))  # without keep_freed_memory, two processes in three have 97,500 faults
def test_freed_memory_is_used_again_without_page_faults(_):
    assert int(output(FAULTS)) < 1000


@pytest.mark.skipif(not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="no huge pages here")
def test_memory_is_to_lie_on_huge_pages():
    assert output(ADVICE) == "True"

"""Memory that tensors on a processor give back stays with the process."""

import subprocess
import sys

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


@pytest.mark.skipif(sys.platform != "linux", reason="how memory is given back is glibc's")
@pytest.mark.parametrize("_", range(3))  # without keep_freed_memory, two processes in three have 97,500 faults
def test_freed_memory_is_used_again_without_page_faults(_):
    result = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, check=True)
    assert int(result.stdout) < 1000

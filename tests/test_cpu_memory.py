import os
import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource
import statistics
import torch
from modeling_mm_orient.runs.cpu_memory import reuse_memory

def faults():
    counts = []
    for _ in range(12):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(2**25)
        counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    return int(statistics.median(counts))  # now and then something small takes a piece of what was left

fresh = faults()
reuse_memory()
print(fresh, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told to keep memory")
def test_a_large_tensor_takes_the_memory_of_the_one_before():
    environment = os.environ | {"THP_MEM_ALLOC_ENABLE": "1"}
    done = subprocess.run([sys.executable, "-c", FAULTS], env=environment, check=True, capture_output=True, text=True)
    fresh, reused = map(int, done.stdout.split())
    assert reused < fresh / 4

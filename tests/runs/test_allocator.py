"""A process that keeps freed memory faults no pages in for the next step."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys, torch
from gps_seg.runs.allocator import keep_freed_memory
kept = keep_freed_memory() if sys.argv[1] == "keep" else False
def step():
    return sum(tensor.sum() for tensor in [torch.ones(1 << 22) for _ in range(4)])  # 16.8 MB each
for _ in range(5):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    step()
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str, **environment: str) -> tuple[bool, int]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_") and name != "GLIBC_TUNABLES"}
    command = [sys.executable, "-c", FAULTS, how]
    done = subprocess.run(command, capture_output=True, text=True, env=clean | environment, check=True)
    kept, count = done.stdout.split()
    return kept == "True", int(count)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator")
def test_freed_memory_is_used_again() -> None:
    kept, few = faults("keep")
    _, many = faults("leave")
    assert kept and few < 0.5 * many


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator")
def test_an_allocator_that_the_user_has_set_is_left_alone() -> None:
    assert faults("keep", MALLOC_TOP_PAD_="131072")[0] is False

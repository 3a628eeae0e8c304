"""Freed memory stays with the process as long as it is asked to."""

from __future__ import annotations

import subprocess
import sys

import pytest

from strop.training.allocator import _glibc

FAULTS = """
import resource
from contextlib import nullcontext
import torch
from strop.training.allocator import memory_kept

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(16 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

plain = faults()
with memory_kept():
    faults()
    kept = faults()
print(plain, kept, faults())
"""


@pytest.mark.skipif(_glibc() is None, reason="another C library")
def test_large_blocks_are_not_mapped_anew_each_time() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FAULTS], check=True, capture_output=True, text=True
    )
    plain, kept, after = (int(number) for number in done.stdout.split())
    assert plain > 10_000 and kept < plain / 100
    assert after > plain / 2  # as it was before

"""Freed memory stays with the process as long as it is asked to."""

from __future__ import annotations

import subprocess
import sys

import pytest

from strop.training.allocator import _glibc

# A block is of 16,384 pages. A kernel that hands out huge ones is asked not to: it counts fewer.
FAULTS = """
import ctypes
import resource
import torch
from strop.training.allocator import memory_kept

ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # PR_SET_THP_DISABLE

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
    assert plain > 100_000 and kept < 1_000
    # What was kept was given back. How often blocks are mapped anew from then on is the library's
    # affair: it keeps one that lies below something small.
    assert after > 10_000

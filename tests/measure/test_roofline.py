from __future__ import annotations

import pytest

from strop.measure import bound
from strop.measure.roofline import stream_add


def test_the_larger_limit_binds() -> None:
    compute = bound(8e9, 1e3, peak=4e9, bandwidth=1e9)
    assert (compute.seconds, compute.side) == (2.0, "compute")
    memory = bound(1e3, 3e9, peak=4e9, bandwidth=1e9)
    assert (memory.seconds, memory.side) == (3.0, "memory")


@pytest.mark.parametrize("threads", [1, 3])
def test_the_bandwidth_kernel_adds_every_element(threads: int) -> None:
    import numpy as np

    added: list[int] = []
    original = np.add

    def add(b, c, out):
        added.append(len(out))
        return original(b, c, out=out)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np, "add", add)
        assert stream_add(10_001, threads, rounds=2) > 0
    assert len(added) == 3 * threads and sum(added) == 3 * 10_001

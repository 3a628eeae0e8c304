"""A target that is the same on every machine."""

from __future__ import annotations

from typing import Any

from strop.records import Machine, Target


def target(**changes: Any) -> Target:
    """One x86-64 CPU with AVX2 and VNNI and no other peculiarity; `changes` as in `Target`."""
    machine = Machine(
        cpu="test",
        architecture="x86_64",
        platform="test",
        isa=("avx2", "avx512f", "avx512_vnni"),
        cpus=(0,),
        physical_cores=1,
        memory_bytes=1 << 30,
        python="3.11",
    )
    return Target(machine=machine).model_copy(update=changes)

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from strop.measure import describe, granted_cpus, machine
from strop.workers import Child

EPYC = """processor\t: 0
vendor_id\t: AuthenticAMD
model name\t: AMD EPYC 9754
flags\t\t: fpu sse4_2 fma avx2 avx512f avx512_vnni avx512_bf16 f16c

processor\t: 1
model name\t: another
flags\t\t: amx_int8
"""
GRAVITON = """processor\t: 0
BogoMIPS\t: 2100.00
Features\t: fp asimd asimdhp asimddp sve i8mm bf16
CPU implementer\t: 0x41
CPU part\t: 0xd40
"""
MAC = """machdep.cpu.brand_string: Apple M3
hw.optional.arm.AdvSIMD: 1
hw.optional.arm.FEAT_I8MM: 1
hw.optional.arm.FEAT_BF16: 0
"""


def test_this_machine_describes_itself() -> None:
    described = describe()
    assert described.cores == len(granted_cpus()) >= described.physical_cores >= 1
    assert described.cpu and described.architecture
    assert described.memory_bytes > 1 << 26
    assert described.packages["numpy"] == np.__version__
    assert type(described).from_json(described.to_json()) == described


def test_describing_imports_no_engine() -> None:
    code = (
        "import sys; from strop.measure.machine import describe; describe();"
        "print([m for m in ('torch', 'onnx', 'onnxruntime', 'openvino', 'scipy.stats')"
        " if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_processors_are_read_from_what_systems_print() -> None:
    name, isa = machine._from_cpuinfo(EPYC)
    assert name == "AMD EPYC 9754"
    assert set(isa) == {"fma", "avx2", "avx512f", "avx512_vnni", "avx512_bf16", "f16c"}
    name, isa = machine._from_cpuinfo(GRAVITON)
    assert name == "Arm Neoverse V1"
    assert set(isa) == {"neon", "fp16", "dotprod", "sve", "i8mm", "bf16"}
    assert "part 0xfff" in machine._from_cpuinfo(GRAVITON.replace("0xd40", "0xfff"))[0]
    assert machine._from_sysctl(MAC) == ("Apple M3", ("neon", "i8mm"))
    assert machine._from_cpuinfo("")[0]


@pytest.mark.skipif(sys.platform != "linux", reason="affinity is Linux's")
def test_affinity_limits_what_is_granted() -> None:
    last = granted_cpus()[-1]
    with Child(cpus=[last]) as child:
        assert child.call("strop.measure.machine:granted_cpus") == [last]
    assert last in os.sched_getaffinity(0)


@pytest.mark.parametrize(
    ("quota", "count"), [(math.inf, 4), (8.0, 4), (3.9, 3), (2.0, 2), (0.5, 1)]
)
def test_a_quota_is_rounded_down_to_whole_cpus(quota: float, count: int) -> None:
    assert len(machine._within_quota([2, 3, 5, 7], quota)) == count


def test_a_quota_keeps_one_thread_a_core_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_core", lambda cpu: ("0", str(cpu // 2)))
    assert machine._within_quota(range(8), 4.0) == (0, 2, 4, 6)
    assert machine._within_quota(range(8), 5.0) == (0, 1, 2, 4, 6)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_limits_of_cgroup_version_2_hold_at_every_level(tmp_path: Path) -> None:
    mount, membership = tmp_path / "mount", tmp_path / "membership"
    _write(membership, "0::/outer/inner\n")
    _write(mount / "outer" / "cpu.max", "150000 100000\n")
    _write(mount / "outer" / "inner" / "cpu.max", "max 100000\n")
    _write(mount / "outer" / "memory.max", "max\n")
    _write(mount / "outer" / "inner" / "memory.max", "1000000\n")
    folders = machine._cgroup_folders("cpu", mount=mount, membership=membership)
    assert list(machine._cpu_quotas(folders)) == [1.5]
    folders = machine._cgroup_folders("memory", mount=mount, membership=membership)
    assert list(machine._memory_limits(folders)) == [1_000_000]


def test_limits_of_cgroup_version_1_hold_at_every_level(tmp_path: Path) -> None:
    mount, membership = tmp_path / "mount", tmp_path / "membership"
    _write(membership, "5:cpu,cpuacct:/job\n4:memory:/job\n3:name=systemd:/\n0::/\n")
    _write(mount / "cpu,cpuacct" / "job" / "cpu.cfs_quota_us", "250000\n")
    _write(mount / "cpu,cpuacct" / "job" / "cpu.cfs_period_us", "100000\n")
    _write(mount / "cpu,cpuacct" / "cpu.cfs_quota_us", "-1\n")
    _write(mount / "memory" / "job" / "memory.limit_in_bytes", "2000000\n")
    _write(mount / "memory" / "memory.limit_in_bytes", "9223372036854771712\n")
    folders = machine._cgroup_folders("cpu", mount=mount, membership=membership)
    assert list(machine._cpu_quotas(folders)) == [2.5]
    folders = machine._cgroup_folders("memory", mount=mount, membership=membership)
    assert list(machine._memory_limits(folders)) == [2_000_000]


def test_a_container_that_hides_its_path_still_shows_its_limits(tmp_path: Path) -> None:
    mount, membership = tmp_path / "mount", tmp_path / "membership"
    _write(mount / "cpu.max", "200000 100000\n")
    for path in ("/docker/abc", "/../../other"):
        _write(membership, f"0::{path}\n")
        folders = machine._cgroup_folders("cpu", mount=mount, membership=membership)
        assert list(machine._cpu_quotas(folders)) == [2.0]
    assert machine._cgroup_folders("cpu", mount=mount, membership=tmp_path / "none") == []

"""The machine that figures are measured on: its processor, and what of it we were granted."""

from __future__ import annotations

import math
import os
import platform
import sys
from collections.abc import Iterable, Iterator, Sequence
from importlib import metadata
from pathlib import Path

from strop.records import Machine

PACKAGES = (
    *("strop", "numpy", "onnx", "onnxruntime", "openvino", "nncf", "torch"),
    *("executorch", "ai-edge-litert", "litert-torch"),
)
"""Distributions whose versions shape results: the core's, and the engines' own."""

_ISA = {
    # x86-64, as /proc/cpuinfo spells them
    "fma": "fma",
    "f16c": "f16c",
    "avx2": "avx2",
    "avx_vnni": "avx_vnni",
    "avx512f": "avx512f",
    "avx512_vnni": "avx512_vnni",
    "avx512_bf16": "avx512_bf16",
    "avx512_fp16": "avx512_fp16",
    "amx_tile": "amx_tile",
    "amx_int8": "amx_int8",
    "amx_bf16": "amx_bf16",
    "amx_fp16": "amx_fp16",
    # arm64, where the kernel's names are not the ones people know
    "asimd": "neon",
    "asimdhp": "fp16",
    "asimddp": "dotprod",
    "i8mm": "i8mm",
    "bf16": "bf16",
    "sve": "sve",
    "sve2": "sve2",
    # macOS, as sysctl hw.optional.arm spells them
    "AdvSIMD": "neon",
    "FEAT_FP16": "fp16",
    "FEAT_DotProd": "dotprod",
    "FEAT_I8MM": "i8mm",
    "FEAT_BF16": "bf16",
}
_ARM_PARTS = {
    "0xd0c": "Arm Neoverse N1",
    "0xd40": "Arm Neoverse V1",
    "0xd49": "Arm Neoverse N2",
    "0xd4f": "Arm Neoverse V2",
}
_UNLIMITED = 1 << 60  # cgroup v1 writes a huge number where v2 writes "max"


def describe() -> Machine:
    """This machine as a record; reads files only, and imports no engine.

    Examples
    --------
    >>> machine = describe()
    >>> machine.cpus == granted_cpus() and machine.physical_cores <= machine.cores
    True
    """
    name, isa = _processor()
    cpus = granted_cpus()
    return Machine(
        cpu=name,
        architecture=platform.machine(),
        platform=platform.platform(),
        isa=isa,
        cpus=cpus,
        physical_cores=len({_core(cpu) for cpu in cpus}),
        memory_bytes=granted_memory(),
        python=platform.python_version(),
        packages=_versions(PACKAGES),
    )


def granted_cpus() -> tuple[int, ...]:
    """The logical CPUs that this process may use: its affinity, cut by the cgroup's quota.

    A quota of 2.5 CPUs grants two: a third thread would be throttled half of the time, and the
    others would wait for it. Where the quota is the smaller, one thread a physical core is kept
    before a second one on any.
    """
    if sys.platform == "linux":
        allowed = sorted(os.sched_getaffinity(0))
    else:
        allowed = list(range(os.cpu_count() or 1))
    return _within_quota(allowed, cpu_quota())


def granted_memory() -> int:
    """Bytes that this process may use: physical memory, cut by the cgroup's limits."""
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([physical, *_memory_limits(_cgroup_folders("memory"))])


def cpu_quota() -> float:
    """CPUs' worth of time that the cgroup grants; infinite where it sets no quota."""
    return min(_cpu_quotas(_cgroup_folders("cpu")), default=math.inf)


def _within_quota(allowed: Sequence[int], quota: float) -> tuple[int, ...]:
    count = max(1, math.floor(min(quota, len(allowed))))
    seen: dict[tuple[str, str], int] = {}
    ranked = []
    for cpu in allowed:
        core = _core(cpu)
        seen[core] = seen.get(core, 0) + 1
        ranked.append((seen[core], cpu))
    return tuple(sorted(cpu for _, cpu in sorted(ranked)[:count]))


def _core(cpu: int) -> tuple[str, str]:
    """What tells a physical core from another; the CPU itself where the system does not say."""
    topology = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology")
    package, core = _text(topology / "physical_package_id"), _text(topology / "core_id")
    return (package, core) if package and core else ("cpu", str(cpu))


def _cgroup_folders(
    controller: str,
    *,
    mount: Path = Path("/sys/fs/cgroup"),
    membership: Path = Path("/proc/self/cgroup"),
) -> list[Path]:
    """The folders that may hold limits of a controller: the process's own and all above it.

    Handles version 2, version 1, and both side by side (cgroups(7)). Inside a container the path
    that the kernel names may not be mounted; what is mounted then counts.
    """
    folders: list[Path] = []
    for line in (_text(membership) or "").splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0" and not controllers:
            roots = [mount, mount / "unified"]
        elif controller in controllers.split(","):
            roots = [mount / controllers, mount / controller]
        else:
            continue
        inside = Path(path.lstrip("/"))
        if ".." in inside.parts:
            inside = Path()
        for root in roots:
            folders += [root / part for part in (inside, *inside.parents)]
    return [folder for folder in dict.fromkeys(folders) if folder.is_dir()]


def _cpu_quotas(folders: Iterable[Path]) -> Iterator[float]:
    for folder in folders:
        if both := _text(folder / "cpu.max"):  # version 2: "max 100000" or "250000 100000"
            quota, period = both.split()
        else:
            quota = _text(folder / "cpu.cfs_quota_us") or "-1"
            period = _text(folder / "cpu.cfs_period_us") or "100000"
        if quota not in ("max", "-1"):
            yield int(quota) / int(period)


def _memory_limits(folders: Iterable[Path]) -> Iterator[int]:
    for folder in folders:
        for name in ("memory.max", "memory.limit_in_bytes"):
            limit = _text(folder / name)
            if limit and limit != "max" and int(limit) < _UNLIMITED:
                yield int(limit)


def _processor() -> tuple[str, tuple[str, ...]]:
    if sys.platform == "darwin":
        import subprocess

        command = ["sysctl", "machdep.cpu.brand_string", "hw.optional"]
        text = subprocess.run(command, capture_output=True, text=True, check=False).stdout
        return _from_sysctl(text)
    return _from_cpuinfo(_text(Path("/proc/cpuinfo")) or "")


def _from_cpuinfo(text: str) -> tuple[str, tuple[str, ...]]:
    """Name and instruction sets from the first processor of ``/proc/cpuinfo``."""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    part = fields.get("CPU part", "")
    name = fields.get("model name") or _ARM_PARTS.get(part)
    if name is None and part:
        name = f"Arm implementer {fields.get('CPU implementer', '?')} part {part}"
    flags = (fields.get("flags") or fields.get("Features") or "").split()
    return name or platform.processor() or platform.machine(), _known(flags)


def _from_sysctl(text: str) -> tuple[str, tuple[str, ...]]:
    """Name and instruction sets from what macOS's ``sysctl`` prints."""
    pairs = [line.partition(": ")[::2] for line in text.splitlines()]
    name = dict(pairs).get("machdep.cpu.brand_string")
    flags = [key.rpartition(".")[2] for key, value in pairs if value.strip() == "1"]
    intel = {"avx2_0": "avx2", "avx512f": "avx512f"}
    flags = [intel.get(flag, flag) for flag in flags]
    return name or platform.machine(), _known(flags)


def _known(flags: Iterable[str]) -> tuple[str, ...]:
    present = set(flags)
    return tuple(dict.fromkeys(ours for theirs, ours in _ISA.items() if theirs in present))


def _versions(distributions: Iterable[str]) -> dict[str, str]:
    versions = {}
    for name in distributions:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _text(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None

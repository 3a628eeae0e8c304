"""What this machine and this installation can do, and what stands in their way."""

from __future__ import annotations

import importlib.util
import math
import os
import re
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

from pydantic import Field

from strop import engines
from strop.errors import StropError
from strop.measure import Watts, describe, machine_noise, meter, peaks, wattage, watts
from strop.measure.machine import cpu_quota
from strop.measure.rapl import obstacle
from strop.records import Interval, Machine, Record
from strop.search.cache import default_folder

_DOT_PRODUCTS = {"avx512_vnni", "avx_vnni", "amx_int8", "dotprod", "i8mm"}
_NOISY = 1.05
_SLOW_INT8 = 1.2
_BUSY = 0.5
_FAR = 1.5
"""Times that an estimate of energy may be off the counters before it is warned of."""
_LAUNCHES = 5
_OF_EXTRA = re.compile(r"(?P<package>[\w.-]+).*;.*\bextra == [\"'](?P<extra>[\w-]+)[\"'].*")


class EngineFound(Record):
    """An engine that is registered.

    Attributes
    ----------
    version
        Of the distribution that it runs on; empty where that is not installed.
    remedy
        Why it cannot run and what installs it; empty where it can.
    """

    name: str
    available: bool
    version: str = ""
    remedy: str = ""


class ExtraFound(Record):
    """An extra of strop's that is no engine's: what reads other models and data, trains, serves.

    Attributes
    ----------
    packages
        Versions of what it brings, by distribution; those that are missing are left out.
    remedy
        What is missing and what installs it; empty where nothing is.
    """

    name: str
    packages: dict[str, str]
    remedy: str = ""


class Cores(Record):
    """The logical CPUs that the machine has, that affinity leaves, and that may be used.

    Attributes
    ----------
    quota
        CPUs' worth of time that the cgroup grants; infinite without a quota.
    granted
        What strop uses: affinity cut by the quota.
    physical
        Physical cores among the granted.
    """

    online: int
    affinity: int
    quota: float
    granted: int
    physical: int


class Speeds(Record):
    """Measured peaks of the granted cores: operations and bytes a second."""

    fp32: float
    int8: float
    bandwidth: float
    threads: int


class Noise(Record):
    """A small model timed against itself.

    Attributes
    ----------
    ratio
        Its speed-up over itself; the truth is 1.
    detectable
        The smallest speed-up that as many launches can tell from none.
    """

    ratio: Interval
    detectable: float
    launches: int


class Power(Record):
    """Watts of one busy logical CPU: what estimates of energy count, and what counters show.

    Attributes
    ----------
    estimate, source
        What an estimate counts, and where that comes from.
    counters
        By name; empty where there are none that can be read.
    counted
        Watts by the counters while matrix products ran, idle power included; None where there are
        no counters, or nothing was measured.
    idle
        Watts by the counters while nothing ran.
    obstacle
        Why no counter can be used; empty where one can.
    """

    estimate: float
    source: str
    counters: str = ""
    counted: float | None = None
    idle: float | None = None
    obstacle: str = ""


class Diagnosis(Record):
    """What `strop doctor` prints.

    Attributes
    ----------
    cache, cache_writable
        Where built models are kept between runs, and whether that can be written.
    telemetry
        ``blocked``, or ``not installed``: whether OpenVINO's usage reports could be sent.
    speeds, noise
        None where they were not measured.
    power
        How energy is told here; None in what earlier versions wrote.
    extras
        Sorted by name; a missing one stands in the way of nothing else.
    warnings
        What would make results slow, doubtful or impossible, each with a way out.
    """

    schema_version: int = Field(default=1, alias="schema")
    machine: Machine
    cores: Cores
    load: float
    engines: tuple[EngineFound, ...]
    cache: str
    cache_writable: bool
    telemetry: str
    speeds: Speeds | None
    noise: Noise | None
    warnings: tuple[str, ...]
    power: Power | None = None
    extras: tuple[ExtraFound, ...] = ()


def diagnose(quick: bool = False, *, say: Callable[[str], None] = lambda line: None) -> Diagnosis:
    """Look at the machine and the installation.

    Parameters
    ----------
    quick
        Leave out what takes longer than a second: the peaks and the noise floor.
    say
        Takes short lines about what goes on.

    Examples
    --------
    >>> found = diagnose(quick=True)
    >>> found.cores.granted >= 1, found.speeds
    (True, None)
    """
    machine = describe()
    load = os.getloadavg()[0]  # before the measurements add their own
    cores = Cores(
        online=os.cpu_count() or machine.cores,
        affinity=_affinity(),
        quota=cpu_quota(),
        granted=machine.cores,
        physical=machine.physical_cores,
    )
    cache = default_folder()
    speeds = noise = None
    if not quick:
        say("measuring the peaks")
        measured = peaks()
        speeds = Speeds(
            fp32=measured.fp32,
            int8=measured.int8,
            bandwidth=measured.bandwidth,
            threads=measured.threads,
        )
        say("measuring the noise")
        floor = machine_noise(launches=_LAUNCHES, emit=say)
        noise = Noise(
            ratio=floor.ratio, detectable=floor.detectable, launches=floor.timing.launches
        )
    power = _power(watts(machine), quick=quick)
    found = tuple(_engines())
    writable = _writable(cache)
    warnings = [
        *_about_processor(machine, cores, load),
        *_about_installation(found, cache, writable),
        *_about_measurements(speeds, noise),
        *_about_power(power),
    ]
    return Diagnosis(
        machine=machine,
        cores=cores,
        load=load,
        engines=found,
        cache=str(cache),
        cache_writable=writable,
        telemetry=_telemetry(),
        speeds=speeds,
        noise=noise,
        power=power,
        extras=tuple(_extras()),
        warnings=tuple(warnings),
    )


def _about_processor(machine: Machine, cores: Cores, load: float) -> Iterator[str]:
    x86 = machine.architecture.lower() in ("x86_64", "amd64")
    if not _DOT_PRODUCTS & set(machine.isa):
        loss = " and its 16-bit sums saturate with 8-bit weights" if x86 else ""
        yield (
            "the processor has no 8-bit dot product (VNNI, AMX, or dotprod on ARM): INT8 gains "
            f"little{loss}; look to FP32 engines and smaller networks"
        )
    if cores.quota < cores.affinity:
        yield (
            f"the cgroup grants {cores.quota:g} CPUs' worth of time of {cores.affinity} CPUs: "
            f"{cores.granted} threads are used; raise the container's limit for more"
        )
    if cores.physical < cores.granted:
        yield (
            f"{cores.granted} logical CPUs are {cores.physical} physical cores: try --threads "
            f"{cores.physical}"
        )
    if load > _BUSY * cores.granted:
        yield (
            f"the load is {load:.1f} on {cores.granted} granted CPUs: other work runs and spoils "
            "timings; wait for it to end"
        )


def _about_installation(
    found: tuple[EngineFound, ...], cache: Path, writable: bool
) -> Iterator[str]:
    for engine in found:
        if not engine.available:
            yield f"the engine {engine.name} cannot run: {engine.remedy}"
    if not writable:
        yield f"the cache folder '{cache}' cannot be written: set STROP_CACHE to one that can"


def _about_measurements(speeds: Speeds | None, noise: Noise | None) -> Iterator[str]:
    if speeds is not None and speeds.int8 < _SLOW_INT8 * speeds.fp32:
        yield (
            f"INT8 products run at {speeds.int8 / speeds.fp32:.1f} times the speed of FP32 ones "
            "on ONNX Runtime: expect little of INT8 there"
        )
    if noise is None:
        return
    if noise.detectable > _NOISY:
        yield (
            f"timings are noisy: {noise.launches} launches cannot tell speed-ups below "
            f"{_percent(noise.detectable)} from none; stop other work or use a quieter machine"
        )
    if not noise.ratio.low <= 1 <= noise.ratio.high:
        yield (
            "a model timed against itself came out different: an interval misses the truth once "
            "in twenty runs; if it happens again, do not trust speed-ups measured here"
        )


def _about_power(power: Power) -> Iterator[str]:
    if power.counted is None:
        return
    factor = power.counted / power.estimate
    if not 1 / _FAR <= factor <= _FAR:
        yield (
            f"{power.counters} count {power.counted:.3g} W a busy logical CPU, and an estimate of "
            f"energy would count {power.estimate:.3g} W: where counters cannot be read on such a "
            f"machine, pass --watts-per-core {power.counted:.3g}"
        )


def _power(assumed: Watts, *, quick: bool) -> Power:
    found = meter()
    seen = None if found is None or quick else wattage(found)
    why = obstacle() if found is None else ""
    if found is not None and seen is None and not quick:
        why = f"the energy counters ({found.name}) stand still or fail"
    return Power(
        estimate=assumed.per_core,
        source=assumed.source,
        counters="" if found is None else found.name,
        counted=None if seen is None else seen.per_core,
        idle=None if seen is None else seen.idle,
        obstacle=why,
    )


def _percent(ratio: float) -> str:
    return "any size" if math.isinf(ratio) else f"{ratio - 1:.0%}"


def _engines() -> Iterator[EngineFound]:
    for name in engines.names():
        try:
            engine = engines.get(name)
            answer = engine.available()
            version = _version(engine.packages) if answer else ""
        except StropError as error:  # a broken plug-in must not hide the others
            yield EngineFound(name=name, available=False, remedy=str(error))
            continue
        yield EngineFound(name=name, available=answer.ok, version=version, remedy=answer.reason)


def _extras() -> Iterator[ExtraFound]:
    """By strop's own metadata, so that a new extra is in it by itself."""
    own = {engines.get(name).extra for name in engines.names()}
    wanted: dict[str, list[str]] = {}
    for line in metadata.requires("strop") or ():
        found = _OF_EXTRA.fullmatch(line)
        if found and found["extra"] not in own and found["package"] != "strop":
            wanted.setdefault(found["extra"], []).append(found["package"])
    for extra, packages in sorted(wanted.items()):
        versions = {package: _version((package,)) for package in packages}
        missing = [package for package, version in versions.items() if not version]
        remedy = f"no {', '.join(missing)}; run: pip install 'strop[{extra}]'" if missing else ""
        known = {package: version for package, version in versions.items() if version}
        yield ExtraFound(name=extra, packages=known, remedy=remedy)


def _version(packages: tuple[str, ...]) -> str:
    for package in packages:
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return ""


def _affinity() -> int:
    if sys.platform == "linux":
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    return count


def _writable(folder: Path) -> bool:
    """Whether a file can be made in the folder, or in the nearest parent that there is."""
    while not folder.exists():
        folder = folder.parent
    probe = folder / f".strop-doctor-{os.getpid()}"
    try:
        probe.touch()
        probe.unlink()
    except OSError:
        return False
    return True


def _telemetry() -> str:
    sent_by = "openvino_telemetry"
    blocked = sent_by in sys.modules and sys.modules[sent_by] is None
    if not blocked and importlib.util.find_spec(sent_by) is None:
        return "not installed"
    engines.quiet_telemetry()
    return "blocked"

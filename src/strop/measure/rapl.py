"""Running Average Power Limit: the energy counters of x86 processors, as Linux shows them.

Linux kernel documentation, "Power Capping Framework" (``/sys/class/powercap``). Only the packages
are counted: their cores and their uncore are part of them, and ``psys`` would count them twice.
Most kernels let root alone read them (CVE-2020-8694), and most virtual machines have none.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/sys/class/powercap")


@dataclass(frozen=True)
class Package:
    """One processor package's counter.

    Attributes
    ----------
    name
        ``RAPL package-0``.
    joules_a_step
        Of the raw counter.
    wraps_at
        The raw value after which the counter begins at nought again.
    """

    name: str
    path: Path
    wraps_at: int
    joules_a_step: float = 1e-6

    def read(self) -> int:
        """The raw counter; OSError where it may not be read."""
        return int(self.path.read_bytes())


def packages(root: Path = ROOT) -> tuple[Package, ...]:
    """The packages whose counters can be read here, by name; none where one of them cannot.

    Half of a machine's packages would be half of its energy.
    """
    found = list(_listed(root))
    try:
        for package in found:
            package.read()
    except (OSError, ValueError):
        return ()
    return tuple(found)


def obstacle(root: Path = ROOT) -> str:
    """Why there is no counter to read, as a clause; empty where there is one."""
    found = list(_listed(root))
    if not found:
        return "this system shows no energy counters (RAPL), as virtual machines mostly do not"
    try:
        for package in found:
            package.read()
    except PermissionError:
        return "the energy counters (RAPL) may be read by root only"
    except (OSError, ValueError) as error:
        return f"the energy counters (RAPL) cannot be read: {error}"
    return ""


def _listed(root: Path) -> Iterator[Package]:
    # A second interface to the same package, intel-rapl-mmio:0, is left out by its name.
    for folder in sorted(root.glob("intel-rapl:*")):
        if folder.name.count(":") != 1:
            continue  # a part of a package
        try:
            name = (folder / "name").read_text().strip()
            wraps_at = int((folder / "max_energy_range_uj").read_text())
        except (OSError, ValueError):
            continue
        if name.startswith("package"):
            yield Package(f"RAPL {name}", folder / "energy_uj", wraps_at)

"""Energy counters on a made-up ``/sys/class/powercap``."""

from __future__ import annotations

from pathlib import Path

import pytest

from strop.measure import Meter, idle_watts, meter, rapl


def domain(root: Path, folder: str, name: str, count: int = 0, most: int = 1_000_000) -> Path:
    path = root / folder
    path.mkdir(parents=True)
    (path / "name").write_text(f"{name}\n")
    (path / "max_energy_range_uj").write_text(f"{most}\n")
    (path / "energy_uj").write_text(f"{count}\n")
    return path / "energy_uj"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Two packages with their parts, the second interface, and the whole platform."""
    domain(tmp_path, "intel-rapl:0", "package-0", 999_000)
    domain(tmp_path, "intel-rapl:0:0", "core", 5)
    domain(tmp_path, "intel-rapl:0:1", "dram", 5)
    domain(tmp_path, "intel-rapl:1", "package-1", 10)
    domain(tmp_path, "intel-rapl:2", "psys", 5)
    domain(tmp_path, "intel-rapl-mmio:0", "package-0", 5)
    (tmp_path / "intel-rapl").mkdir()
    return tmp_path


def test_packages_alone_are_counted(tree: Path) -> None:
    found = meter(root=tree)
    assert found is not None and found.name == "RAPL package-0 + RAPL package-1"
    assert rapl.obstacle(tree) == ""


def test_a_counter_that_runs_round_is_followed(tree: Path) -> None:
    found = meter(root=tree)
    assert found is not None
    before = found.read()
    (tree / "intel-rapl:0" / "energy_uj").write_text("4000")  # over the top, to 4,000
    (tree / "intel-rapl:1" / "energy_uj").write_text("2010")
    assert found.joules_since(before) == pytest.approx((5_000 + 2_000) * 1e-6)


def test_without_counters_there_is_no_meter(tmp_path: Path) -> None:
    assert meter(root=tmp_path / "nothing") is None
    assert "virtual machines" in rapl.obstacle(tmp_path / "nothing")


def test_one_counter_that_cannot_be_read_is_none_at_all(tree: Path) -> None:
    (tree / "intel-rapl:1" / "energy_uj").write_text("not a number")
    assert meter(root=tree) is None
    assert "cannot be read" in rapl.obstacle(tree)


def test_a_counter_for_root_alone_says_so(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: rapl.Package) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(rapl.Package, "read", refuse)
    assert rapl.packages(tree) == ()
    assert "root" in rapl.obstacle(tree)


def test_a_broken_domain_is_passed_over(tree: Path) -> None:
    (tree / "intel-rapl:1" / "max_energy_range_uj").unlink()
    found = meter(root=tree)
    assert found is not None and found.name == "RAPL package-0"


def test_idle_watts_are_joules_over_the_seconds_that_passed() -> None:
    class Running:
        name, wraps_at, joules_a_step = "running", 2**32, 1e-6

        def __init__(self) -> None:
            self.reads = 0

        def read(self) -> int:
            self.reads += 1
            return 1_000_000 * self.reads  # one joule a reading

    watts = idle_watts(Meter([Running()]), seconds=0.05)
    assert watts is not None and 0 < watts <= 1 / 0.05

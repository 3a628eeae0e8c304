"""NVIDIA's energy counters through a stand-in for the driver's library."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import pytest

from strop.measure import meter, nvml


class Driver:
    """Answers as NVML does: codes, and values through references."""

    def __init__(self, millijoules: int = 5_000, boards: int = 2, counts: bool = True) -> None:
        self.millijoules = millijoules
        self.boards = boards
        self.counts = counts
        self.asked: list[Any] = []

    def nvmlInit_v2(self) -> int:
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index: int, handle: Any) -> int:
        self.asked.append(index)
        if index >= self.boards:
            return 2
        handle._obj.value = 100 + index
        return 0

    def nvmlDeviceGetHandleByUUID(self, uuid: bytes, handle: Any) -> int:
        self.asked.append(uuid)
        handle._obj.value = 100
        return 0

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: Any, value: Any) -> int:
        if not self.counts:
            return 3
        assert isinstance(handle, ctypes.c_void_p)
        value._obj.value = self.millijoules
        return 0


def test_a_board_counts_millijoules() -> None:
    driver = Driver()
    board = nvml.board(1, library=driver, environment={})
    assert board is not None and board.name == "NVML board 1"
    before = board.read()
    driver.millijoules += 1_500
    assert (board.read() - before) * board.joules_a_step == pytest.approx(1.5)


@pytest.mark.parametrize(
    ("visible", "asked"),
    [("3,1", 3), ("GPU-8932f937", b"GPU-8932f937"), ("", 0)],
)
def test_the_visible_devices_are_followed(visible: str, asked: int | bytes) -> None:
    driver = Driver(boards=4)
    assert nvml.board(0, library=driver, environment={"CUDA_VISIBLE_DEVICES": visible})
    assert driver.asked == [asked]


@pytest.mark.parametrize("driver", [Driver(boards=0), Driver(counts=False), object()])
def test_what_does_not_count_is_no_board(driver: object) -> None:
    assert nvml.board(0, library=driver, environment={}) is None


def test_without_a_driver_a_cuda_device_has_no_meter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nvml, "_LIBRARY", "libno-such-driver.so")
    assert meter("cuda:0", root=tmp_path) is None

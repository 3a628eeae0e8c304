"""Which examples a run learns from, when there is no time for all of them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from strop.training import selection
from strop.training.selection import select
from strop.training.settings import TrainSettings
from strop.training.teacher import TeacherOutputs

SECONDS_A_CALL = 0.01


class Clock:
    """Goes on only while the teacher computes."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(selection, "time", clock)
    return clock


class Loader:
    def read(self, rows: np.ndarray) -> Any:
        return SimpleNamespace(inputs={"rows": torch.from_numpy(rows)}, targets=None)


def objective(folder: Path, count: int, batch: int, clock: Clock) -> Any:
    """A teacher that insists on its batch, and takes its time for one."""

    def teach(inputs: Any) -> dict[str, torch.Tensor]:
        rows = inputs["rows"]
        assert len(rows) == batch, "the model insists on its batch"
        clock.now += SECONDS_A_CALL
        return {"output": torch.stack([rows.float(), -rows.float()], 1)}

    cache = TeacherOutputs(folder, count, 2**20, teach)
    loader = Loader()
    return SimpleNamespace(
        teaches=True,
        labelled=None,
        kinds={"output": "classes"},
        cache=cache,
        answers=lambda rows: cache(rows, loader.read(rows).inputs),
    )


def chosen(found: Any, count: int, visits: int, batch: int, seconds: float) -> tuple[Any, str]:
    return select(
        np.arange(count),
        visits,
        batch=batch,
        objective=found,
        loader=Loader(),  # type: ignore[arg-type]
        settings=TrainSettings(batch=batch),
        seed=0,
        seconds=seconds,
    )


def test_a_model_that_insists_on_its_batch_is_never_given_a_part_of_one(
    tmp_path: Path, clock: Clock
) -> None:
    found = objective(tmp_path, 150, 100, clock)
    rows, how = chosen(found, 150, 100, 100, seconds=100.0)
    assert how == "all" and len(rows) == 150


def test_what_another_student_was_taught_does_not_make_the_rest_cheap(
    tmp_path: Path, clock: Clock
) -> None:
    seconds, batch = 10.0, 4  # a tenth is 100 of the teacher's calls
    for _ in range(3):
        began, found = clock.now, objective(tmp_path, 4000, batch, clock)
        rows, how = chosen(found, 4000, 40, batch, seconds)
        found.cache.flush()
        assert how == "coreset" and len(rows) == 40
        assert clock.now - began <= 0.1 * seconds + 3 * SECONDS_A_CALL

"""Which widths engines reward."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from strop.errors import InputError, NotApplicable
from strop.models.model import Model
from strop.techniques import widths
from strop.techniques.widths import call_seconds, conditions, speedup, step_of
from strop.testing import graphs
from strop.testing.targets import target

WIDTHS = range(16, 68, 4)


@pytest.mark.parametrize("step", [4, 8, 16, 32])
def test_the_step_is_found_in_spite_of_noise(step: int) -> None:
    noise = np.random.default_rng(step).normal(1, 0.01, len(WIDTHS))
    seconds = {w: -(-w // step) * step * n for w, n in zip(WIDTHS, noise, strict=True)}
    # Steps of 4 are the finest that these widths can show.
    assert step_of(seconds) == (1 if step == 4 else step)


class Clock:
    """Stands where `time` does, and goes on only while a session computes."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now


class Timed:
    """A session whose every call takes as long, but for a stall in one of them."""

    def __init__(self, clock: Clock, seconds: float, stalls_at: int) -> None:
        self.clock, self.seconds, self.stalls_at = clock, seconds, stalls_at

    def run(self, arrays: Mapping[str, np.ndarray]) -> None:
        self.stalls_at -= 1
        self.clock.now += self.seconds + (not self.stalls_at)

    def close(self) -> None: ...


def timed_on(patch: pytest.MonkeyPatch, **seconds: tuple[float, ...]) -> None:
    """Let there be engines by name, on which calls of the models in turn take so long."""
    clock, opened = Clock(), dict.fromkeys(seconds, 0)

    def open_(engine: Any, *_: object) -> Timed:
        number = opened[engine.name]
        opened[engine.name] += 1
        return Timed(clock, seconds[engine.name][number], stalls_at=4)

    given = [SimpleNamespace(name=name, applies=lambda *_: True) for name in seconds]
    patch.setattr(widths, "time", clock)
    patch.setattr(widths, "_quick_engines", lambda: given)
    patch.setattr(widths, "_open", open_)


def test_calls_are_timed_on_the_engine_that_is_fastest_for_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed_on(monkeypatch, good_for_one=(1e-4, 9e-3), good_for_both=(1e-3, 3e-3), slow=(1.0, 1.0))
    model: Any = None
    found = call_seconds([model, model], [{}, {}], target(), tmp_path)
    assert found == pytest.approx([1e-3, 3e-3])


def test_a_speedup_is_the_ratio_of_the_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed_on(monkeypatch, engine=(6e-3, 2e-3))
    model: Any = None
    assert speedup(model, model, {}, target(), tmp_path) == pytest.approx(3)


def test_networks_of_any_width_are_timed_for_real(tmp_path: Path) -> None:
    widest = [widths._convolution(w, tmp_path / str(w)) for w in (16, 128)]
    rng = np.random.default_rng(0)
    inputs = [{"x": rng.standard_normal((4, w, 14, 14)).astype(np.float32)} for w in (16, 128)]
    assert min(call_seconds(widest, inputs, target(), tmp_path)) > 0


def test_a_model_that_no_engine_runs_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("strop.engines.names", lambda: ())
    model: Model = graphs.linear().write(tmp_path / "model")
    with pytest.raises(NotApplicable, match="no engine here"):
        call_seconds([model], [graphs.linear().inputs(1, 0)], target(), tmp_path)


def test_a_plug_in_that_is_broken_does_not_end_a_measurement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    get = widths.engines.get

    def broken(name: str) -> object:
        if name == "broken":
            raise InputError("the engine 'broken' cannot be loaded")
        return get(name)

    monkeypatch.setattr("strop.engines.names", lambda: ("broken", "onnxruntime"))
    monkeypatch.setattr("strop.engines.get", broken)
    model: Model = graphs.linear().write(tmp_path / "model")
    assert call_seconds([model], [graphs.linear().inputs(1, 0)], target(), tmp_path)[0] > 0


def test_widths_are_measured_anew_when_an_engine_is(monkeypatch: pytest.MonkeyPatch) -> None:
    before = conditions(target())
    assert "onnxruntime=" in before
    monkeypatch.setattr(widths, "version", lambda package: "next")
    assert conditions(target()) != before

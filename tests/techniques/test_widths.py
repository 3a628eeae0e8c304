"""Which widths engines reward."""

from __future__ import annotations

from pathlib import Path

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


def test_a_wider_network_takes_longer(tmp_path: Path) -> None:
    narrow, wide = (widths._convolution(w, tmp_path / str(w)) for w in (16, 128))
    rng = np.random.default_rng(0)
    inputs = {
        model: {"x": rng.standard_normal((4, w, 14, 14)).astype(np.float32)}
        for model, w in ((0, 16), (1, 128))
    }
    seconds = call_seconds([narrow, wide], [inputs[0], inputs[1]], target(), tmp_path)
    assert seconds[1] > 4 * seconds[0]


def test_a_network_is_about_as_fast_as_itself(tmp_path: Path) -> None:
    model = widths._convolution(32, tmp_path / "model")
    x = {"x": np.zeros((2, 32, 14, 14), np.float32)}
    assert 0.5 < speedup(model, model, x, target(), tmp_path) < 2


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

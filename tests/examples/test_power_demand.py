"""The time series of examples/zoo: reading them, and a network that does not look ahead."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

TEXT = """# A comment with a : and a , in it.
@problemName Days
@univariate true
@classLabel true winter summer
@data
-0.5,1.25,3:summer
1e-1,0,-2:winter
"""


def test_a_series_file_is_values_and_the_classes_in_the_order_of_its_header() -> None:
    from power_demand import read

    series, target = read(TEXT)
    assert series.dtype == np.float32
    assert series.tolist() == [[[-0.5, 1.25, 3.0]], [[pytest.approx(0.1), 0.0, -2.0]]]
    assert target.tolist() == [1, 0]


def test_a_class_that_the_header_does_not_name_is_an_error() -> None:
    from power_demand import read

    with pytest.raises(ValueError, match="autumn"):
        read(TEXT + "1,2,3:autumn\n")


def test_no_step_of_the_network_looks_ahead(files: Path) -> None:
    build = runpy.run_path(str(files / "power-demand" / "model.py"))["Season"]
    torch.manual_seed(0)
    model, series = build().eval(), torch.randn(2, 1, 24)
    kept: list[torch.Tensor] = []
    model.recurrent.register_forward_hook(lambda _, __, output: kept.append(output[0].detach()))
    with torch.inference_mode():
        model(series)
        series[:, :, 12:] += 1.0
        model(series)
    before, after = kept
    assert torch.equal(before[:, :12], after[:, :12])
    assert not torch.allclose(before[:, 12:], after[:, 12:])

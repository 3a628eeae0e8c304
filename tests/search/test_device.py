"""A search on another device than the CPU, where there is none."""

from pathlib import Path

import pytest

from strop.engines import onnxruntime_devices
from strop.errors import InputError
from strop.search.intake import check_device
from strop.search.space import joint_space, original_recipe
from strop.testing import graphs
from strop.testing.targets import target


def test_a_device_that_no_engine_reaches_is_refused_with_every_reason(tmp_path: Path) -> None:
    model = graphs.linear().write(tmp_path)
    check_device(model, target())
    with pytest.raises(InputError, match="device 'abacus'") as caught:
        check_device(model, target(device="abacus"))
    hint = caught.value.hint or ""
    for reason in ("onnxruntime: ", "torch: ", "no provider for 'abacus'"):
        assert reason in hint


def test_the_original_stays_where_its_own_runtime_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model = graphs.linear().write(tmp_path)
    home = original_recipe(model, target(device="npu")).deploy
    assert home.device == "cpu" and "provider" not in home.options
    monkeypatch.setattr(onnxruntime_devices, "reported", lambda: ("QNN",))
    away = original_recipe(model, target(device="qnn")).deploy
    assert away.device == "qnn" and away.options["provider"] == "QNN"


def test_a_space_on_a_device_holds_what_reaches_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(onnxruntime_devices, "reported", lambda: ("CoreML",))
    model = graphs.linear().write(tmp_path)
    space = joint_space(model, target(device="coreml"), only_techniques=[])
    assert {recipe.deploy.engine for recipe in space.recipes} == {"onnxruntime"}
    assert {recipe.deploy.device for recipe in space.recipes} == {"coreml"}
    assert not space.exact, "CoreML chooses its own precision"
    reasons = dict(space.rejected)
    assert "coreml" in reasons["openvino"] and "coreml" in reasons["torch"]

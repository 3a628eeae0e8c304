from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from strop import engines, techniques
from strop.cli.app import app
from strop.errors import InputError, ModelError
from strop.inspection import Inspection, inspect
from strop.inspection.sizes import input_sizes
from strop.records import Signature, TensorSpec
from strop.testing import graphs, tflite

Network = Callable[..., Path]


def test_counts_follow_from_the_graph(network: Network) -> None:
    found = inspect(network(), measure=False)
    cost = found.cost
    assert cost is not None
    assert cost.operators == {"MatMul": 2, "Relu": 1}
    assert cost.parameters == 6 * 8 + 8 * 4
    assert cost.flops == 2 * 6 * 8 + 8 + 2 * 8 * 4
    assert cost.least_bytes == 4 * (cost.parameters + 6 + 4)
    assert [layer.name for layer in cost.heaviest] == ["fc1", "fc2", "act"]
    assert found.sizes == {"x": (1, 6)}
    assert found.assumed == ("x dimension 0 ('n') = 1",)
    assert found.limit is None


def test_a_given_shape_is_not_assumed_and_scales_the_count(network: Network) -> None:
    path = network()
    one = inspect(path, measure=False).cost
    found = inspect(path, shapes={"x": [5, 6]}, measure=False)
    assert found.assumed == ()
    assert found.sizes == {"x": (5, 6)}
    assert one is not None and found.cost is not None
    assert found.cost.flops == 5 * one.flops


def test_examples_give_all_dimensions_but_the_first(network: Network) -> None:
    found = inspect(network(), examples={"x": np.zeros((9, 6), np.float32)}, measure=False)
    assert found.sizes == {"x": (1, 6)}


def test_a_symbol_has_one_size_wherever_it_stands() -> None:
    def spec(name: str, *shape: int | str | None) -> TensorSpec:
        return TensorSpec(name=name, dtype="int64", shape=shape)

    signature = Signature(
        inputs=(spec("ids", "n", "length"), spec("mask", "n", "length"), spec("extra", None, 3)),
        outputs=(),
    )
    sizes, assumed = input_sizes(signature, {"mask": [1, 128]}, None)
    assert sizes == {"ids": (1, 128), "mask": (1, 128), "extra": (1, 3)}
    assert assumed == ("extra dimension 0 = 1",)
    sizes, assumed = input_sizes(signature, None, None)
    assert sizes["ids"] == sizes["mask"] == (1, 8)
    assert "ids dimension 1 ('length') = 8" in assumed
    assert not any("mask" in line for line in assumed)


def test_an_input_of_unknown_rank_needs_a_shape() -> None:
    signature = Signature(inputs=(TensorSpec(name="x", dtype="float32", shape=None),), outputs=())
    assert input_sizes(signature, None, None) == ({}, ())
    assert input_sizes(signature, {"x": [2, 3]}, None) == ({"x": (2, 3)}, ())


def test_every_engine_and_technique_has_a_verdict_with_a_reason(network: Network) -> None:
    found = inspect(network(), measure=False)
    assert [verdict.name for verdict in found.engines] == list(engines.names())
    assert [verdict.name for verdict in found.techniques] == list(techniques.names())
    for verdict in (*found.engines, *found.techniques):
        assert verdict.ok or verdict.reason
    by_name = {verdict.name: verdict for verdict in found.engines}
    assert by_name["onnxruntime"].ok
    assert "module" in by_name["torch"].reason


def test_why_nothing_is_counted_is_told(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    path = tflite.write(graphs.linear(), tmp_path / "net.tflite")
    found = inspect(path, measure=False)
    assert found.format == "tflite" and found.cost is None
    assert any("no maintained converter" in note for note in found.notes)


def test_the_limit_is_the_larger_of_both_sides(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    from strop.inspection import inspecting
    from strop.measure import Roofline

    slow_memory = Roofline(fp32=1e9, int8=4e9, bandwidth=1e3, threads=2)
    monkeypatch.setattr(inspecting, "peaks", lambda: slow_memory)
    found = inspect(network())
    assert found.limit is not None and found.cost is not None
    assert found.limit.side == "memory"
    assert found.limit.seconds == pytest.approx(found.cost.least_bytes / 1e3)
    assert found.limit.arithmetic == "fp32"


def test_a_shape_that_does_not_fit_is_refused(network: Network) -> None:
    path = network()
    with pytest.raises(InputError, match="does not fit the input x"):
        inspect(path, shapes={"x": [1, 7]}, measure=False)
    with pytest.raises(ModelError, match="no input"):
        inspect(path, shapes={"z": [1, 6]}, measure=False)


def test_what_is_no_model_is_refused() -> None:
    with pytest.raises(InputError, match="a int: expected a path"):
        inspect(3, measure=False)


def test_json_reads_back(network: Network) -> None:
    path = network()
    done = CliRunner().invoke(app, ["inspect", str(path), "--quick", "--json"])
    assert done.exit_code == 0
    read = Inspection.from_json(done.stdout)
    assert json.loads(done.stdout)["schema"] == 1
    assert read == inspect(path, measure=False)


def test_people_see_the_signature_the_cost_and_the_reasons(network: Network) -> None:
    done = CliRunner().invoke(app, ["inspect", str(network()), "--quick", "--shape", "x=3x6"])
    assert done.exit_code == 0
    for words in ("x: float32[n, 6]", "x 3x6", "MatMul 2", "torch", "needs a PyTorch module"):
        assert words in done.stdout
    assert "assumed" not in done.stdout


NET = """
import torch


def net():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 5))
"""


def test_a_module_is_traced_with_the_data_given(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    (tmp_path / "net.py").write_text(NET)
    data = tmp_path / "data.npz"
    np.savez(data, picture=np.zeros((9, 3, 4), np.float32), target=np.zeros(9, np.int64))
    command = ["inspect", f"{tmp_path}/net.py:net", "--data", str(data), "--trust", "--quick"]
    done = CliRunner().invoke(app, [*command, "--json", "--input", "input=picture"])
    assert done.exit_code == 0, done.output
    found = Inspection.from_json(done.stdout)
    assert found.sizes == {"input": (1, 3, 4)}
    assert found.cost is not None
    assert found.cost.parameters == 12 * 5 + 5


def test_data_give_the_sizes_of_an_onnx_file_too(network: Network, tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=np.zeros((3, 6), np.float32))
    found = inspect(network(), data=tmp_path / "data.npz", measure=False)
    assert found.sizes == {"x": (1, 6)}
    with pytest.raises(InputError, match=r"absent\.npz"):
        inspect(network(), data=tmp_path / "absent.npz", measure=False)

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper, save

from strop.measure import Conditions, file_bytes, footprint, peak, weights_bytes, workload
from strop.workers import ChildFailed, ChildOutOfMemory

FAKE = Conditions(loader="fakes:load")


def test_an_allocation_is_seen(fake, inputs) -> None:
    nothing = peak(fake(sleep=0.0), inputs, conditions=FAKE)
    size = 200_000_000
    grown = peak(fake(sleep=0.0, allocate=size), inputs, conditions=FAKE)
    assert nothing < 20_000_000
    assert size - 10_000_000 < grown - nothing < size + 10_000_000


def test_failures_are_told(fake, inputs) -> None:
    with pytest.raises(ChildFailed, match="broken"):
        peak(fake(fail_to_load=True), inputs, conditions=FAKE)
    greedy = fake(allocate=400_000_000, sleep=60)  # it is watched now and then only
    with pytest.raises(ChildOutOfMemory):
        peak(greedy, inputs, conditions=replace(FAKE, memory_limit=250_000_000))


def test_weights_are_counted_by_shape_and_type(tmp_path: Path) -> None:
    workload.matmul(tmp_path, size=16, threads=1)
    assert weights_bytes(tmp_path) == weights_bytes(tmp_path / "model.onnx") == 16 * 16 * 4
    workload.matmul(tmp_path, size=16, threads=1, kind="int8")
    assert weights_bytes(tmp_path) == 16 * 16


def test_weights_in_subgraphs_constants_and_four_bits_count(tmp_path: Path) -> None:
    def constant(name: str, array: np.ndarray):
        tensor = numpy_helper.from_array(array)
        return helper.make_node("Constant", [], [name], value=tensor)

    def branch(name: str, size: int):
        output = helper.make_tensor_value_info(name, TensorProto.FLOAT, [size])
        weights = numpy_helper.from_array(np.zeros(size, np.float32), name)
        return helper.make_graph([], name, [], [output], [weights])

    condition = helper.make_tensor_value_info("c", TensorProto.BOOL, [])
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None])
    choice = helper.make_node(
        "If", ["c"], ["y"], then_branch=branch("t", 10), else_branch=branch("e", 20)
    )
    packed = helper.make_tensor("w4", TensorProto.INT4, [5], [1, 2, 3, 4, 5])
    nodes = [constant("k", np.zeros(3, np.float64)), choice]
    graph = helper.make_graph(nodes, "g", [condition], [output], [packed])
    save(helper.make_model(graph), tmp_path / "model.onnx")
    assert weights_bytes(tmp_path) == 10 * 4 + 20 * 4 + 3 * 8 + 3


def test_external_weights_are_counted_without_being_read(tmp_path: Path) -> None:
    import onnx

    spec, _ = workload.matmul(tmp_path, size=64, threads=1)
    whole = onnx.load(spec.artifact)
    save(
        whole,
        tmp_path / "model.onnx",
        save_as_external_data=True,
        location="model.onnx.data",
        size_threshold=0,
    )
    with_data = file_bytes(tmp_path / "model.onnx")
    (tmp_path / "model.onnx.data").unlink()
    assert with_data > 64 * 64 * 4 > file_bytes(tmp_path / "model.onnx")
    assert weights_bytes(tmp_path) == 64 * 64 * 4


def test_files_of_an_artefact_are_those_that_share_its_name(tmp_path: Path) -> None:
    for name, size in {"model.xml": 10, "model.bin": 1000, "other.bin": 5}.items():
        (tmp_path / name).write_bytes(bytes(size))
    assert file_bytes(tmp_path / "model.xml") == 1010
    assert file_bytes(tmp_path) == 1015
    assert weights_bytes(tmp_path / "model.xml") == weights_bytes(tmp_path) == 1000
    record = footprint(tmp_path / "model.xml", peak=7)
    assert (record.peak, record.weights, record.file) == (7, 1000, 1010)


def test_weights_of_other_formats_are_unknown(tmp_path: Path) -> None:
    (tmp_path / "model.pt2").write_bytes(b"12345")
    assert footprint(tmp_path / "model.pt2").weights is None
    assert footprint(tmp_path / "model.pt2").file == 5

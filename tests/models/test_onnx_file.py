from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from strop.errors import ModelError
from strop.models import onnx_file

GRAPH = "g (float[N, 4] x) => (float[N, 3] y) { y = MatMul(x, w) }"
WEIGHT = np.arange(12, dtype=np.float32).reshape(4, 3)


def external(folder: Path, location: str, **entries: int | str) -> Path:
    """A model whose one weight lies in `location`, with the bytes for it in weights.bin."""
    (folder / "weights.bin").write_bytes(WEIGHT.tobytes())
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]>\n{GRAPH}')
    tensor = proto.graph.initializer.add(name="w", data_type=TensorProto.FLOAT, dims=[4, 3])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=str(value))
    path = folder / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def test_external_data_beside_the_model_are_loaded(tmp_path):
    proto = onnx_file.read(external(tmp_path, "weights.bin", offset=0, length=48))
    (tensor,) = proto.graph.initializer
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(tensor), WEIGHT)
    assert not tensor.external_data


@pytest.mark.parametrize(
    "location",
    ["/etc/passwd", "../weights.bin", "a/../../weights.bin", "..\\weights.bin", "C:\\w.bin", ""],
)
def test_external_data_outside_the_folder_are_refused(tmp_path, location):
    folder = tmp_path / "model"
    folder.mkdir()
    with pytest.raises(ModelError, match="outside the model's folder"):
        onnx_file.read(external(folder, location))


def test_external_data_behind_a_symbolic_link_are_refused(tmp_path):
    path = external(tmp_path, "link.bin")
    (tmp_path / "link.bin").symlink_to(tmp_path / "weights.bin")
    with pytest.raises(ModelError, match="symbolic link"):
        onnx_file.read(path)


def test_external_data_in_a_linked_folder_are_refused(tmp_path):
    model = tmp_path / "model"
    elsewhere = tmp_path / "elsewhere"
    model.mkdir()
    elsewhere.mkdir()
    path = external(model, "inner/weights.bin")
    (elsewhere / "weights.bin").write_bytes(WEIGHT.tobytes())
    (model / "inner").symlink_to(elsewhere)
    with pytest.raises(ModelError, match="symbolic link"):
        onnx_file.read(path)


def test_external_data_with_a_second_name_are_refused(tmp_path):
    path = external(tmp_path, "hard.bin")
    os.link(tmp_path / "weights.bin", tmp_path / "hard.bin")
    with pytest.raises(ModelError, match="hard link"):
        onnx_file.read(path)


def test_a_pipe_as_external_data_is_refused_without_waiting(tmp_path):
    path = external(tmp_path, "pipe")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ModelError, match="not a plain file"):
        onnx_file.read(path)


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ({"offset": 8}, "has 48 bytes"),
        ({"offset": -8}, "declare 48 bytes from -8"),
        ({"length": 10**15}, "which takes 48"),
        ({"length": "many"}, "no number"),
    ],
)
def test_external_data_must_hold_what_is_declared(tmp_path, entries, reason):
    with pytest.raises(ModelError, match=reason):
        onnx_file.read(external(tmp_path, "weights.bin", **entries))


def test_missing_external_data_name_the_file(tmp_path):
    path = external(tmp_path, "weights.bin")
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(ModelError, match=r"weights\.bin.*No such file"):
        onnx_file.read(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
        (b"\xff\xff\xff\xff", "does not parse"),
        (b"hello, I am a text file", "not an ONNX model"),
        (b"\x08\x08", "no graph"),
    ],
)
def test_what_is_no_model_is_refused_in_one_line(tmp_path, content, reason):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=reason) as caught:
        onnx_file.read(path)
    assert "\n" not in str(caught.value)


def test_every_truncation_is_refused(save, tmp_path):
    content = save(GRAPH, weights={"w": WEIGHT}).read_bytes()
    cut = tmp_path / "cut.onnx"
    for size in range(len(content)):
        cut.write_bytes(content[:size])
        try:
            proto = onnx_file.read(cut)
        except ModelError:
            continue
        # Protobuf may end at a field's border: then the graph itself is still whole.
        assert proto.graph.output
        assert len(proto.graph.initializer) == 1


@pytest.mark.parametrize(
    ("dims", "reason"),
    [
        ([2**40, 2**40], "bytes are stored"),
        ([2**32, 2**32], "bytes are stored"),  # overflows 64 bits to exactly 0
        ([-1, 4], "negative dimension"),
        ([5, 3], "60 bytes, but 48"),
    ],
)
def test_dimensions_must_match_the_bytes(make, tmp_path, dims, reason):
    proto = make(GRAPH, weights={"w": WEIGHT})
    proto.graph.initializer[0].dims[:] = dims
    path = tmp_path / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(ModelError, match=reason):
        onnx_file.read(path)


def test_dimensions_must_match_typed_data_too(make, tmp_path):
    proto = make(GRAPH)
    proto.graph.initializer.append(helper.make_tensor("w", TensorProto.FLOAT, [4, 3], range(12)))
    proto.graph.initializer[0].dims[:] = [2**50, 3]
    path = tmp_path / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(ModelError, match="12 are stored"):
        onnx_file.read(path)


def test_a_tensor_inside_a_subgraph_is_checked(make, tmp_path):
    proto = make(
        """g (bool c) => (float[3] y) {
            y = If(c) <
                then_branch = a () => (float[3] t) { t = Constant<value = float[3] {1, 2, 3}>() },
                else_branch = b () => (float[3] e) { e = Constant<value = float[3] {4, 5, 6}>() }
            >
        }"""
    )
    inner = next(a.g for a in proto.graph.node[0].attribute if a.name == "else_branch")
    inner.node[0].attribute[0].t.dims[:] = [3_000_000]
    path = tmp_path / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(ModelError, match="3,000,000 elements"):
        onnx_file.read(path)


def test_a_constant_that_blows_up_is_refused(save):
    path = save(
        "g (float[1] x) => (float[1] y) { z = ConstantOfShape(s) m = ReduceMax<keepdims=0>(z) "
        "y = Add(x, m) }",
        weights={"s": np.array([2**30, 2**30])},
    )
    with pytest.raises(ModelError, match="elements of memory"):
        onnx_file.read(path)


def test_an_unknown_element_type_is_refused(make, tmp_path):
    proto = make(GRAPH, weights={"w": WEIGHT})
    proto.graph.initializer[0].data_type = 77
    path = tmp_path / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(ModelError, match="unknown type 77"):
        onnx_file.read(path)


def test_big_weights_go_beside_the_graph(make, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_file, "INLINE_LIMIT", 1000)
    weight = np.ones((64, 64), np.float32)
    proto = make(GRAPH.replace("4", "64").replace("3]", "64]"), weights={"w": weight})
    path = onnx_file.write(proto, tmp_path / "new" / "model.onnx")
    assert (path.parent / "model.onnx.data").stat().st_size >= weight.nbytes
    assert path.stat().st_size < 1000
    assert proto.graph.initializer[0].raw_data  # the caller's graph keeps its weights
    again = onnx_file.read(path)
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(again.graph.initializer[0]), weight)


@pytest.mark.parametrize(("opset", "ir"), [(16, 8), (22, 10), (21, 11)])
def test_what_engines_refuse_is_not_written(make, tmp_path, opset, ir):
    proto = make(GRAPH, opset=opset, ir=ir, weights={"w": WEIGHT})
    with pytest.raises(ModelError, match="opset 17–21 and IR up to 10"):
        onnx_file.write(proto, tmp_path / "model.onnx")


def test_metadata_and_doc_strings_are_stripped_on_writing(make, tmp_path):
    proto = make(GRAPH, weights={"w": WEIGHT})
    proto.doc_string = proto.graph.doc_string = "/home/someone"
    proto.metadata_props.add(key="path", value="/home/someone")
    proto.graph.node[0].metadata_props.add(key="stack", value="/home/someone")
    proto.graph.node[0].doc_string = "/home/someone"
    proto.graph.input[0].doc_string = "/home/someone"
    path = onnx_file.write(proto, tmp_path / "model.onnx")
    assert b"someone" not in path.read_bytes()


def test_a_pipe_is_no_model_and_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "model.onnx")
    with pytest.raises(ModelError, match="not a plain file"):
        onnx_file.read(tmp_path / "model.onnx")


def test_a_large_base_of_a_module_stays_readable_where_it_is_handed_on(tmp_path):
    from strop.models.module_writer import _linked

    (tmp_path / "before").mkdir()
    path = external(tmp_path / "before", "model.onnx.data")
    (tmp_path / "before" / "weights.bin").rename(tmp_path / "before" / "model.onnx.data")
    shutil.copytree(path.parent, tmp_path / "after", copy_function=_linked)
    assert onnx_file.read(tmp_path / "after" / "model.onnx").graph.initializer
    assert (tmp_path / "after" / "model.onnx").samefile(path), "what can be is shared"

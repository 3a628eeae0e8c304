import struct
from pathlib import Path

import numpy as np
import pytest

from strop.errors import ModelError
from strop.models import tflite_file
from strop.models.tflite_file import Scale
from strop.testing import graphs, tflite
from strop.testing.tflite import Operator, Tensor


def file_of(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "model.tflite"
    path.write_bytes(content)
    return path


def relu(dtype: str = "float32", kind: int | str = 19, **more: object) -> bytes:
    scale = (0.5, -3) if dtype == "int8" else None
    return tflite.pack(
        [Tensor("in:0", dtype, (1, 4), scale=scale), Tensor("out", dtype, (1, 4), scale=scale)],
        [Operator(kind, ("in:0",), ("out",))],
        ["in:0"],
        ["out"],
        **more,  # type: ignore[arg-type]
    )


def test_names_come_from_the_signature_and_open_dimensions_stay_open(tmp_path: Path) -> None:
    facts = tflite_file.read(tflite.write(graphs.several(), tmp_path / "model.tflite"))
    assert str(facts.signature) == (
        "(x: float32[batch, 4], ids: int64[batch, ?], keep: bool[batch])"
        " -> (total: float32[batch, 1], double: int64[batch, ?], positive: bool[batch, 4])"
    )
    assert facts.input_tensors == ("main_x", "main_ids", "main_keep")
    assert facts.chosen == "serving_default"
    assert (facts.custom, facts.others, facts.quantised) == ((), (), False)
    assert facts.producer == "strop.testing"


def test_without_a_signature_tensors_have_their_own_names(tmp_path: Path) -> None:
    facts = tflite_file.read(file_of(tmp_path, relu()))
    assert str(facts.signature) == "(in:0: float32[1, 4]) -> (out: float32[1, 4])"
    assert facts.chosen == ""


def test_the_default_signature_is_preferred_and_the_others_are_told(tmp_path: Path) -> None:
    first = ({"a": "in:0"}, {"b": "out"})
    default = ({"x": "in:0"}, {"y": "out"})
    content = relu(signatures={"encode": first, "serving_default": default})
    facts = tflite_file.read(file_of(tmp_path, content))
    assert (facts.chosen, facts.others) == ("serving_default", ("encode",))
    assert facts.signature.input_names == ("x",)


def test_a_signature_that_leaves_an_input_unnamed_gives_no_names(tmp_path: Path) -> None:
    facts = tflite_file.read(file_of(tmp_path, relu(signatures={"odd": ({}, {"y": "out"})})))
    assert (facts.chosen, facts.others) == ("", ("odd",))
    assert facts.signature.input_names == ("in:0",)


def test_tensors_that_share_a_name_are_told_apart(tmp_path: Path) -> None:
    ends = [Tensor("a", "float32", (1, 4)), Tensor("b", "float32", (1, 4))]
    content = tflite.pack(
        [*ends, Tensor("y", "float32", (1, 4))],
        [Operator(0, ("a", "b"), ("y",))],
        ["a", "b"],
        ["y"],
    )
    renamed = content.replace(b"\x01\0\0\0b\0", b"\x01\0\0\0a\0")
    assert renamed != content
    facts = tflite_file.read(file_of(tmp_path, renamed))
    assert facts.signature.input_names == ("a_0", "a_1")


def test_quantised_integers_come_with_their_scale(tmp_path: Path) -> None:
    facts = tflite_file.read(file_of(tmp_path, relu("int8")))
    assert facts.quantised
    assert facts.scales == {"in:0": Scale(0.5, -3), "out": Scale(0.5, -3)}
    assert facts.signature.inputs[0].dtype == "int8"


def test_custom_operators_are_named(tmp_path: Path) -> None:
    assert tflite_file.read(file_of(tmp_path, relu(kind="FlexWhere"))).custom == ("FlexWhere",)


def test_another_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"not a \.tflite file"):
        tflite_file.read(file_of(tmp_path, b"\x08\x07onnx...."))
    with pytest.raises(ModelError, match="cannot be read"):
        tflite_file.read(tmp_path / "absent.tflite")


def test_another_version_and_a_graph_without_outputs_are_refused(tmp_path: Path) -> None:
    whole = relu()
    # The root table's first field that is no offset holds the version.
    newer = [
        whole[:place] + (4).to_bytes(4, "little") + whole[place + 4 :]
        for place in range(8, len(whole) - 4, 4)
        if whole[place : place + 4] == (3).to_bytes(4, "little")
    ]
    messages = []
    for content in newer:
        try:
            tflite_file.read(file_of(tmp_path, content))
        except ModelError as error:
            messages.append(str(error))
    assert any("version 4 of the format, not 3" in message for message in messages)
    nothing = tflite.pack([Tensor("x", "float32", (1,))], [], ["x"], [])
    with pytest.raises(ModelError, match="no outputs"):
        tflite_file.read(file_of(tmp_path, nothing))


def test_damaged_files_are_refused_in_words_wherever_they_break(tmp_path: Path) -> None:
    whole = tflite.write(graphs.linear(), tmp_path / "whole.tflite").read_bytes()
    path = tmp_path / "model.tflite"
    rng = np.random.default_rng(0)
    refused = 0
    for length in range(8, len(whole), 16):
        path.write_bytes(whole[:length])
        refused += _refuses(path)
    assert refused > 10
    for _ in range(150):
        broken = bytearray(whole)
        for place in rng.integers(8, len(whole), 4):
            broken[place] = rng.integers(0, 256)
        path.write_bytes(bytes(broken))
        _refuses(path)


def _refuses(path: Path) -> bool:
    """Whether the file is refused; any error but ModelError fails the test."""
    try:
        tflite_file.read(path)
    except ModelError as error:
        return "\n" not in str(error)
    return False


def shared(count: int) -> bytes:
    """A file with one graph and one tensor, of which its two lists have `count` entries each."""

    def entries(place: int, target: int) -> bytes:
        first = place + 4
        offsets = (target - first - 4 * number for number in range(count))
        return struct.pack(f"<{count + 1}I", count, *offsets)

    fields = struct.pack("<5H2x", 10, 12, 4, 0, 8)  # of a table: the first and the third
    graphs = 32
    graph = graphs + 4 + 4 * count + len(fields)
    tensors = graph + 12
    outputs = tensors + 4 + 4 * count
    tensor = outputs + 8 + 4
    return b"".join(
        [
            struct.pack("<I4s", 20, b"TFL3"),
            fields,
            struct.pack("<iII", 12, 3, 4),
            entries(graphs, graph),
            fields,
            struct.pack("<iII", 12, 8, outputs - graph - 8),
            entries(tensors, tensor),
            struct.pack("<Ii", 1, 0),
            struct.pack("<HHi", 4, 4, 4),
        ]
    )


def test_tables_that_are_shared_without_end_are_refused_at_once(tmp_path: Path) -> None:
    assert len(tflite_file.read(file_of(tmp_path, shared(2))).signature.outputs) == 1
    with pytest.raises(ModelError, match="in circles"):  # of 25 million tensors in 40 kB
        tflite_file.read(file_of(tmp_path, shared(5_000)))


def test_a_border_that_counts_from_the_end_is_refused(tmp_path: Path) -> None:
    content = shared(2).replace(struct.pack("<Ii", 1, 0), struct.pack("<Ii", 1, -1))
    with pytest.raises(ModelError, match="points outside itself"):
        tflite_file.read(file_of(tmp_path, content))

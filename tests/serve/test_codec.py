"""The codec: what it reads, what it writes, and that no bytes make it raise anything odd."""

from __future__ import annotations

import json
import struct
import zlib
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strop.serve.codec import Limits, decode, decode_raw, decompress, encode
from strop.serve.codec.datatypes import ITEMSIZE, dtype_of, pack_bytes, unpack_bytes
from strop.serve.errors import BadRequest, TooLarge

LIMITS = Limits()


def body(data: Any, datatype: str = "FP32", shape: Any = (2, 2), **more: Any) -> bytes:
    entry = {"name": "x", "datatype": datatype, "shape": shape, "data": data}
    return json.dumps({"inputs": [entry], **more}).encode()


def read(*arguments: Any, **options: Any) -> np.ndarray:
    return decode(body(*arguments, **options), None, LIMITS).inputs["x"]


@pytest.mark.parametrize("datatype", sorted(ITEMSIZE))
def test_json_of_every_datatype(datatype: str) -> None:
    values = [True, False, True, True] if datatype == "BOOL" else [0, 1, 2, 100]
    array = read(values, datatype)
    assert array.dtype == dtype_of(datatype)
    assert array.astype(np.float64).ravel().tolist() == values
    np.testing.assert_array_equal(read([values[:2], values[2:]], datatype), array)


@pytest.mark.parametrize("datatype", sorted(ITEMSIZE))
def test_binary_of_every_datatype(datatype: str) -> None:
    array = np.array([0, 1, 1, 0]).astype(dtype_of(datatype)).reshape(2, 2)
    parts, length = encode("m", "1", {"x": array}, "", True)
    document = json.loads(parts[0])
    document["inputs"] = document.pop("outputs")
    text = json.dumps(document).encode()
    assert length == len(parts[0])
    back = decode(text + bytes(parts[1]), len(text), LIMITS).inputs["x"]
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)


@pytest.mark.parametrize(
    ("data", "datatype", "shape"),
    [
        ([1.5, 2, 3, 4], "INT32", [2, 2]),  # a fraction would be lost
        ([300, 2, 3, 4], "UINT8", [2, 2]),  # beyond the range
        ([-1, 2, 3, 4], "UINT64", [2, 2]),
        ([1e39, 2, 3, 4], "FP32", [2, 2]),
        ([70000, 2, 3, 4], "FP16", [2, 2]),
        (["1", 2, 3, 4], "FP32", [2, 2]),
        ([None, 2, 3, 4], "FP64", [2, 2]),
        ([1, 0, 1, 0], "BOOL", [2, 2]),
        ([1, 2, 3], "FP32", [2, 2]),
        ([[1, 2], [3]], "FP32", [2, 2]),
        ([[1, 2, 3], [4]], "FP32", [2, 2]),  # the count is right, the rows are not
        ([[[1, 2]], [[3, 4]]], "FP32", [2, 2]),
        ([[1, 2], 3, 4], "FP32", [2, 2]),
        ([[1], [2], [3], [4]], "FP32", [2, 2]),
        (["a", "b", 3, "d"], "BYTES", [2, 2]),
        (["ab", ["c", "d"]], "BYTES", [2, 2]),
        ([["c", "d"], "ab"], "BYTES", [2, 2]),
        ({"0": 1}, "FP32", [2, 2]),
        ([1, 2, 3, 4], "FP31", [2, 2]),
        ([1, 2, 3, 4], 7, [2, 2]),
        ([1, 2, 3, 4], "FP32", [-2, -2]),
        ([1, 2, 3, 4], "FP32", [2.0, 2]),
        ([1, 2, 3, 4], "FP32", [True, 4]),
        ([1, 2, 3, 4], "FP32", "22"),
        ([1, 2, 3, 4], "FP32", [1] * 33),
    ],
)
def test_what_does_not_fit_is_refused(data: Any, datatype: Any, shape: Any) -> None:
    with pytest.raises(BadRequest):
        read(data, datatype, shape)


@pytest.mark.parametrize(
    "shape",
    [[1 << 40, 1 << 40], [1 << 29], [(1 << 63) - 1, 2], [4, 1 << 62], [0, 1 << 62], [1 << 40, 0]],
)
def test_products_that_overflow_are_refused_before_any_work(shape: list[int]) -> None:
    with pytest.raises(TooLarge):
        read([1], "FP32", shape)
    entry = {"name": "x", "datatype": "BYTES", "shape": shape}
    entry["parameters"] = {"binary_data_size": 4}
    text = json.dumps({"inputs": [entry]}).encode()
    with pytest.raises(TooLarge):
        decode(text + bytes(4), len(text), LIMITS)


def test_strings() -> None:
    array = read([["a", ""], ["é", "b" * 300]], "BYTES")
    assert array.tolist() == [[b"a", b""], ["é".encode(), b"b" * 300]]
    packed = pack_bytes(array)
    assert unpack_bytes(packed, 4, "x").reshape(2, 2).tolist() == array.tolist()
    for wrong in (packed[:-1], packed + b"\0", packed[:3], b"\xff\xff\xff\xff"):
        with pytest.raises(BadRequest):
            unpack_bytes(wrong, 4, "x")
    with pytest.raises(BadRequest):
        unpack_bytes(packed, 1 << 40, "x")


def test_bytes_that_are_no_text_have_no_place_in_json() -> None:
    array = np.array([b"\xff"], dtype=object)
    with pytest.raises(BadRequest, match="binary"):
        encode("m", "1", {"y": array}, "", False)
    assert encode("m", "1", {"y": array}, "", True).parts[1] == b"\x01\0\0\0\xff"


def test_a_lying_header_length() -> None:
    text = body([1, 2, 3, 4])
    with pytest.raises(BadRequest, match="Inference-Header-Content-Length"):
        decode(text, len(text) + 1, LIMITS)
    with pytest.raises(BadRequest):
        decode(text, len(text) - 1, LIMITS)
    with pytest.raises(BadRequest, match="belong to no input"):
        decode(text + b"more", len(text), LIMITS)


def test_lying_binary_sizes() -> None:
    for size in (-1, 15, 17, 1 << 62, "16", True, 16.0):
        entry = {"name": "x", "datatype": "FP32", "shape": [2, 2]}
        entry["parameters"] = {"binary_data_size": size}
        text = json.dumps({"inputs": [entry]}).encode()
        with pytest.raises(BadRequest):
            decode(text + bytes(16), len(text), LIMITS)


def test_a_bool_that_is_neither() -> None:
    entry = {"name": "x", "datatype": "BOOL", "shape": [2], "parameters": {"binary_data_size": 2}}
    text = json.dumps({"inputs": [entry]}).encode()
    assert decode(text + b"\1\0", len(text), LIMITS).inputs["x"].tolist() == [True, False]
    with pytest.raises(BadRequest):
        decode(text + b"\1\2", len(text), LIMITS)


def test_binary_tensors_are_views_of_the_body() -> None:
    entry = {"name": "x", "datatype": "FP32", "shape": [4], "parameters": {"binary_data_size": 16}}
    text = json.dumps({"inputs": [entry]}).encode()
    text += b" " * (-len(text) % 16)
    whole = np.frombuffer(text + np.arange(4, dtype=np.float32).tobytes(), np.uint8).copy()
    array = decode(whole.data, len(text), LIMITS).inputs["x"]
    assert np.shares_memory(array, whole)
    crooked = decode(b"\n".join([text, whole[len(text) :].tobytes()]), len(text) + 1, LIMITS)
    assert crooked.inputs["x"].tolist() == [0, 1, 2, 3]
    assert crooked.inputs["x"].flags.aligned


def test_answers_are_views_of_the_outputs() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    parts, _ = encode("m", "1", {"y": array[1:]}, "", True)
    assert np.shares_memory(np.frombuffer(parts[1], np.float32), array)


@pytest.mark.parametrize("named", [255, 256, 257, 1_790_000_000, (1 << 63) - 1])
def test_clients_cannot_make_levels_of_priority_at_will(named: int) -> None:
    """Each would be a queue of its own: with the time as priority nothing would share a batch."""
    decoded = decode(body([1, 2, 3, 4], parameters={"priority": named}), None, LIMITS)
    assert decoded.priority == min(named, 256)


def test_outputs_and_parameters() -> None:
    decoded = decode(
        body(
            [1, 2, 3, 4],
            id="7",
            outputs=[{"name": "p"}, {"name": "q", "parameters": {"binary_data": True}}],
            parameters={"timeout": 1500, "priority": 2, "more": "kept"},
        ),
        None,
        LIMITS,
    )
    assert decoded.outputs == ("p", "q")
    assert decoded.binary == {"q"}
    assert (decoded.id, decoded.priority, decoded.timeout) == ("7", 2, 0.0015)
    assert decoded.parameters == {"more": "kept"}
    everything = decode(body([1, 2, 3, 4], parameters={"binary_data_output": True}), None, LIMITS)
    assert everything.binary is True
    for wrong in (
        {"id": 7},
        {"parameters": []},
        {"parameters": {"timeout": -1}},
        {"parameters": {"priority": "high"}},
        {"parameters": {"binary_data_output": 1}},
        {"parameters": {"sequence_id": 4}},
        {"outputs": {}},
        {"outputs": ["p"]},
        {"outputs": [{"name": "p"}, {"name": "p"}]},
        {"outputs": [{"name": "p", "parameters": {"shared_memory_region": "r"}}]},
        {"outputs": [{"name": "p", "parameters": {"classification": 3}}]},
    ):
        with pytest.raises(BadRequest):
            decode(body([1, 2, 3, 4], **wrong), None, LIMITS)


def test_raw_bodies() -> None:
    assert decode_raw(bytes(32), "x", "FP32", (-1, -1, 4), LIMITS).inputs["x"].shape == (1, 2, 4)
    assert decode_raw(b"text", "x", "BYTES", (-1,), LIMITS).inputs["x"].tolist() == [b"text"]
    for shape in ((-1, 3), (3,), (4, -1, -1)):
        with pytest.raises(BadRequest):
            decode_raw(bytes(32), "x", "FP32", shape, LIMITS)


def test_json_beyond_its_limit() -> None:
    with pytest.raises(TooLarge, match="binary"):
        decode(body([1, 2, 3, 4]), None, Limits(json=10))


@pytest.mark.parametrize("coding", [b"gzip", b"deflate", b" GZIP "])
def test_decompression_stops_at_the_limit(coding: bytes) -> None:
    bits = 15 if coding == b"deflate" else 31
    packer = zlib.compressobj(9, zlib.DEFLATED, bits)
    bomb = packer.compress(bytes(10_000_000)) + packer.flush()
    assert len(bomb) < 20_000
    assert decompress(bomb, coding, Limits(body=10_000_000)) == bytes(10_000_000)
    with pytest.raises(TooLarge):
        decompress(bomb, coding, Limits(body=9_999_999))
    for wrong in (bomb[:-1], bomb + b"x", b"", b"nonsense"):
        with pytest.raises(BadRequest):
            decompress(wrong, coding, Limits(body=10_000_000))
    with pytest.raises(BadRequest):
        decompress(bomb, b"br", LIMITS)


def test_deflate_without_a_frame() -> None:
    packer = zlib.compressobj(wbits=-15)
    assert decompress(packer.compress(b"text") + packer.flush(), b"deflate", LIMITS) == b"text"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=12,
)
NUMBERS = st.integers(-(2**65), 2**65) | st.floats(width=64) | st.booleans() | st.none()
DATA = st.recursive(
    st.lists(NUMBERS | st.text(max_size=3), max_size=6),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=6,
)
ENTRIES = st.fixed_dictionaries(
    {
        "name": st.just("x") | st.text(max_size=3) | JSON,
        "datatype": st.sampled_from([*ITEMSIZE, "BYTES", "FP31"]) | JSON,
        "shape": st.lists(st.integers(-1, 4) | st.integers(), max_size=4) | JSON,
    },
    optional={
        "data": DATA | JSON,
        "parameters": st.fixed_dictionaries({"binary_data_size": st.integers(-1, 40)}) | JSON,
    },
)
DOCUMENTS = st.fixed_dictionaries(
    {"inputs": st.lists(ENTRIES | JSON, max_size=3) | JSON},
    optional={"outputs": JSON, "id": JSON, "parameters": JSON},
)


def attempt(data: bytes, length: int | None) -> None:
    try:
        decoded = decode(data, length, LIMITS)
    except (BadRequest, TooLarge):  # nothing else, and no other ServeError
        return
    assert decoded.inputs
    for array in decoded.inputs.values():
        assert array.flags.c_contiguous
        assert array.size <= LIMITS.elements


@settings(max_examples=400, deadline=None)
@given(st.binary(max_size=200), st.none() | st.integers(0, 250))
def test_no_bytes_raise_anything_but_a_refusal(data: bytes, length: int | None) -> None:
    attempt(data, length)


@settings(max_examples=600, deadline=None)
@given(DOCUMENTS, st.binary(max_size=64), st.integers(-2, 2))
def test_no_document_raises_anything_but_a_refusal(
    document: dict[str, Any], tail: bytes, lie: int
) -> None:
    text = json.dumps(document).encode()
    attempt(text, None)
    attempt(text + tail, max(0, len(text) + (lie if abs(lie) == 2 else 0)))


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=3),
    st.sampled_from(sorted(ITEMSIZE)),
    st.binary(min_size=4, max_size=200),
    st.booleans(),
)
def test_what_is_written_reads_back(
    shape: list[int], datatype: str, noise: bytes, binary: bool
) -> None:
    count = int(np.prod(shape))
    size = count * ITEMSIZE[datatype]
    data = (noise * (size // len(noise) + 1))[:size]
    if datatype == "BOOL":
        array = (np.frombuffer(data, np.uint8) % 2).astype(bool).reshape(shape)
    else:
        array = np.frombuffer(data, dtype_of(datatype)).reshape(shape)
    if not binary and array.dtype.name != "bool":
        # Signalling or not, a NaN is null in JSON; that is said in the documentation.
        with np.errstate(all="ignore"):
            array = np.where(np.isfinite(array.astype(np.float64)), array, 0).astype(array.dtype)
    parts, length = encode("m", "1", {"x": array}, "", binary)
    document = orjson.loads(parts[0])
    text = orjson.dumps({"inputs": document["outputs"]})
    back = decode(text + b"".join(map(bytes, parts[1:])), length and len(text), LIMITS)
    assert back.inputs["x"].tobytes() == array.tobytes()


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=100), st.integers(0, 6))
def test_no_bytes_are_strings_by_mistake(data: bytes, count: int) -> None:
    try:
        values = unpack_bytes(data, count, "x")
    except BadRequest:
        return
    assert b"".join(struct.pack("<I", len(it)) + it for it in values) == data


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300), st.sampled_from([b"gzip", b"deflate", b"br", b"\xff"]))
def test_no_bytes_decompress_to_anything_but_a_refusal(data: bytes, coding: bytes) -> None:
    try:
        content = decompress(data, coding, LIMITS)
    except (BadRequest, TooLarge):
        return
    assert len(content) <= LIMITS.body

from __future__ import annotations

import math
import socket
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from strop.workers import ChildError
from strop.workers.wire import Wire, encode

DTYPES = st.one_of(
    hnp.boolean_dtypes(),
    hnp.integer_dtypes(endianness="?"),
    hnp.unsigned_integer_dtypes(endianness="?"),
    hnp.floating_dtypes(endianness="?"),
    hnp.complex_number_dtypes(),
    hnp.unicode_string_dtypes(),
    hnp.byte_string_dtypes(),
    hnp.datetime64_dtypes(),
)
ARRAYS = DTYPES.flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0))
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text() | st.sampled_from(["$array", "$", "$$array"]), inner)
    ),
    max_leaves=20,
)


def travel(value: Any) -> Any:
    here, there = socket.socketpair()
    with here, there:
        frame = encode({"value": value})
        sender = threading.Thread(target=Wire(here).send, args=(frame,))
        sender.start()
        try:
            return Wire(there).receive()["value"]
        finally:
            sender.join()


def assert_same(arrived: Any, sent: np.ndarray[Any, Any]) -> None:
    assert type(arrived) is np.ndarray
    assert arrived.dtype == sent.dtype
    assert arrived.dtype.str == sent.dtype.str
    assert arrived.shape == sent.shape
    assert arrived.tobytes() == sent.tobytes()  # bits, NaN payloads included
    assert arrived.flags.writeable


@settings(deadline=None, max_examples=150)
@given(ARRAYS)
def test_arrays_arrive_bit_for_bit(array: np.ndarray[Any, Any]) -> None:
    assert_same(travel(array), array)


@settings(deadline=None, max_examples=100)
@given(JSON)
def test_json_values_arrive_unchanged(value: Any) -> None:
    assert travel(value) == value


@pytest.mark.parametrize(
    "array",
    [
        np.arange(24).reshape(2, 3, 4)[:, ::-2, 1:],
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.broadcast_to(np.float16(1.5), (3, 2)),
        np.array(3.0),
        np.zeros((0, 5), np.float16),
        np.array(["naïve", "", "日本"]),
        np.array(["", ""]).astype("<U0"),
        np.array([np.nan, -0.0, np.inf]),
        np.array([1.0, 2.0], np.longdouble),
        np.array([True, False]),
    ],
    ids=lambda array: f"{array.dtype}{list(array.shape)}",
)
def test_awkward_arrays_arrive_unchanged(array: np.ndarray[Any, Any]) -> None:
    assert_same(travel(array), array)


@pytest.mark.parametrize("name", ["bfloat16", "float8_e4m3fn", "int4"])
def test_extended_dtypes_arrive_unchanged(name: str) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    array = np.arange(-4, 4).astype(getattr(ml_dtypes, name)).reshape(2, 4)
    arrived = travel(array)
    assert arrived.dtype == array.dtype
    np.testing.assert_array_equal(arrived, array)


def test_memory_maps_arrive_as_arrays(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(5))
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    assert_same(travel(mapped), np.arange(5))


def test_arrays_travel_inside_lists_and_dicts() -> None:
    first, second = np.arange(3), np.ones((2, 2), np.float32)
    arrived = travel({"x": [first, {"y": second, "$array": 0}], "n": None})
    assert_same(arrived["x"][0], first)
    assert_same(arrived["x"][1]["y"], second)
    assert arrived["x"][1]["$array"] == 0
    assert arrived["n"] is None


def test_near_json_values_become_json() -> None:
    sent = {"path": Path("a") / "b", "pair": (1, 2), "f": np.float32(0.1), "b": np.bool_(True)}
    arrived = travel({**sent, "i": np.int64(-3), "s": np.str_("s")})
    expected = {"path": "a/b", "pair": [1, 2], "f": float(np.float32(0.1)), "b": True}
    assert arrived == {**expected, "i": -3, "s": "s"}
    assert type(arrived["b"]) is bool


def test_numbers_that_json_lacks_arrive() -> None:
    nan, inf = travel([math.nan, -math.inf])
    assert math.isnan(nan)
    assert inf == -math.inf


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (np.array([object()]), "dtype object"),
        (np.zeros(2, [("a", "<i4"), ("b", "<f8")]), "dtype"),
        (np.ma.masked_array([1, 2], [True, False]), "MaskedArray"),
        ({1: 2}, "1 is not a string"),
        ({1, 2}, "set"),
        (b"bytes", "bytes"),
        (1j, "complex"),
        (np.longdouble(1), "longdouble"),
    ],
)
def test_what_cannot_travel_is_refused(value: Any, named: str) -> None:
    with pytest.raises(ChildError, match=named):
        encode({"value": value})


def test_the_end_of_a_connection_is_seen_anywhere_in_a_frame() -> None:
    whole = b"".join(encode({"value": np.arange(4)}))
    for length in (0, 3, 8, 20, len(whole) - 1):
        here, there = socket.socketpair()
        with there:
            with here:
                here.sendall(whole[:length])
            with pytest.raises(EOFError):
                Wire(there).receive()


@pytest.mark.parametrize(
    "header",
    [
        b"not json",
        b"[]",
        b'{"message": {}}',
        b'{"message": {}, "arrays": [{"dtype": "|O", "shape": [1]}]}',
        b'{"message": {}, "arrays": [{"dtype": "<f4", "shape": [-1]}]}',
        b'{"message": {}, "arrays": [{"dtype": "loads", "shape": [1], "extended": true}]}',
    ],
)
def test_broken_headers_are_refused(header: bytes) -> None:
    here, there = socket.socketpair()
    with here, there:
        here.sendall(b"strp" + len(header).to_bytes(4, "little") + header)
        with pytest.raises(ChildError, match="cannot be read"):
            Wire(there).receive()

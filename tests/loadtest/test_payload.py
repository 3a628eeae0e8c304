from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from strop.errors import DataError, InputError
from strop.loadtest.payload import DTYPES, from_model
from strop.loadtest.target import Target, Tensor, parse_target

TARGET = parse_target("http://localhost:8000", model="m")
X = Tensor("x", "FP32", (-1, 3))


def parts(request: bytes) -> tuple[dict[str, str], dict[str, Any], bytes]:
    """Headers, the JSON, and the bytes behind it."""
    head, _, body = request.partition(b"\r\n\r\n")
    headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:])
    assert int(headers["Content-Length"]) == len(body)
    length = int(headers.get("Inference-Header-Content-Length", len(body)))
    return headers, json.loads(body[:length]), body[length:]


def test_rows_of_a_file_are_sent_in_turn(tmp_path: Path) -> None:
    x = np.arange(15, dtype=np.float32).reshape(5, 3)
    np.savez(tmp_path / "d.npz", x=x, target=np.zeros(5))
    found = from_model(TARGET, [X], data=tmp_path / "d.npz", rows=2)
    assert len(found.requests) == 2 and found.rows == 2
    for number, request in enumerate(found.requests):
        assert request.startswith(b"POST /v2/models/m/infer HTTP/1.1\r\n")
        _, described, blob = parts(request)
        assert described["inputs"][0]["shape"] == [2, 3]
        assert described["inputs"][0]["parameters"]["binary_data_size"] == 24
        sent = np.frombuffer(blob, "<f4").reshape(2, 3)
        np.testing.assert_array_equal(sent, x[2 * number : 2 * number + 2])


def test_json_tensors_hold_the_same_values(tmp_path: Path) -> None:
    x = np.array([[0.1, -2.5, 3e8]], np.float32)
    np.savez(tmp_path / "d.npz", x=x)
    found = from_model(TARGET, [X], data=tmp_path / "d.npz", form="json")
    _, described, rest = parts(found.requests[0])
    assert not rest
    np.testing.assert_array_equal(np.array(described["inputs"][0]["data"], np.float32), x[0])


def test_text_is_packed_with_its_length(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", t=np.array([["é"], ["ab"]]))
    found = from_model(TARGET, [Tensor("t", "BYTES", (-1, 1))], data=tmp_path / "d.npz", rows=2)
    assert parts(found.requests[0])[2] == b"\x02\0\0\0\xc3\xa9\x02\0\0\0ab"


@pytest.mark.parametrize("datatype", sorted(DTYPES))
def test_random_values_fit_every_datatype(datatype: str) -> None:
    spec = Tensor("x", datatype, (-1, -1, 2))
    one, same, other = (
        from_model(TARGET, [spec], rows=3, seed=seed).requests[0] for seed in (0, 0, 1)
    )
    assert one == same != other
    _, described, blob = parts(one)
    assert described["inputs"][0]["shape"] == [3, 8, 2]
    if datatype != "BYTES":
        assert len(blob) == 3 * 8 * 2 * DTYPES[datatype].itemsize
    assert described["inputs"][0]["parameters"]["binary_data_size"] == len(blob)


def test_random_values_say_what_they_are() -> None:
    found = from_model(TARGET, [X, Tensor("ids", "INT64", (-1, 4))], seed=7)
    assert "random, seed 7" in found.origin and "from 0 to 127" in found.origin
    assert len(set(found.requests)) == len(found.requests) > 1


def test_a_shape_can_be_given() -> None:
    found = from_model(TARGET, [Tensor("x", "FP32", (-1, -1))], shapes={"x": [2, 5]})
    assert parts(found.requests[0])[1]["inputs"][0]["shape"] == [2, 5]
    with pytest.raises(InputError, match="no input 'z'"):
        from_model(TARGET, [X], shapes={"z": [1]})


@pytest.mark.parametrize(
    ("arrays", "rows", "words"),
    [
        ({"y": np.zeros((2, 3))}, 1, "no array 'x'"),
        ({"x": np.zeros((2, 4), np.float32)}, 1, r"float32\[2, 4\]"),
        ({"x": np.zeros((2, 3), np.float32)}, 4, "at least 4"),
        ({"x": np.full((2, 3), "a")}, 1, "takes FP32"),
        ({"x": np.full((2, 3), 1j)}, 1, "takes FP32"),
    ],
)
def test_examples_that_do_not_fit(
    tmp_path: Path, arrays: dict[str, np.ndarray], rows: int, words: str
) -> None:
    np.savez(tmp_path / "d.npz", **arrays)
    with pytest.raises(InputError, match=words):
        from_model(TARGET, [X], data=tmp_path / "d.npz", rows=rows)


def test_json_has_no_nan(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=np.full((1, 3), np.nan, np.float32))
    assert from_model(TARGET, [X], data=tmp_path / "d.npz").requests
    with pytest.raises(DataError, match="NaN"):
        from_model(TARGET, [X], data=tmp_path / "d.npz", form="json")


def test_targets() -> None:
    found = parse_target("http://h:81/pre/v2/models/a%2Fb/versions/3")
    assert (found.prefix, found.model, found.version) == ("/pre", "a/b", "3")
    assert found.model_path == "/pre/v2/models/a%2Fb/versions/3"
    assert parse_target("http://h").port == 80
    assert parse_target("https://h").port == 443
    assert parse_target("[::1]:8000").url == "http://[::1]:8000"
    with pytest.raises(InputError, match="address"):
        parse_target("http://h:notaport")


def test_no_header_can_be_smuggled_in() -> None:
    head = Target("h", 80, model="a b\r\nX: y").model_path
    assert "\r" not in head and " " not in head

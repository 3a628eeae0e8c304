"""Clients that mean harm, or are merely broken, against a server with tight limits."""

from __future__ import annotations

import contextlib
import hmac
import json
import socket
import struct
import time
import zlib
from collections.abc import Iterator

import grpc
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from strop.serve.security import Guard, Unauthorized
from tests.serve import serving
from tests.serve.serving import Running, parse_responses, post, read_all

MOST = 6
MIB = 1 << 20
BODY = 5 * MIB
INFER = "/v2/models/affine/infer"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("hostile")
    serving.affine(folder / "affine.onnx")
    serving.affine(folder / "wide.onnx", width=MIB)
    (folder / "serve.yaml").write_text(
        f"limits: {{connections: {MOST}, json: 1MiB, body: {BODY}}}\n"
        "models: {affine: affine.onnx, wide: {path: wide.onnx, max_batch: 1}}\n"
    )
    with serving.serving("--config", folder / "serve.yaml", grpc=True) as running:
        yield running
        assert running.stop() == 0


def body(**other: object) -> bytes:
    entry = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4], **other}
    return json.dumps({"inputs": [entry]}).encode()


def answer(server: Running, request: bytes) -> tuple[int, dict[str, str], bytes]:
    (found,) = parse_responses(server.talk(request))
    return found


def usable(connection: socket.socket) -> bool:
    """Whether the server serves this connection; one that it turned away says 503."""
    connection.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: a\r\n\r\n")
    return connection.recv(1 << 16).startswith(b"HTTP/1.1 200")


def wait_until_served(server: Running) -> None:
    """Until the connections of clients that went away are gone, and an answer is right."""
    until = time.monotonic() + 60
    while True:
        status, _, found = answer(server, post(INFER, body(), "Connection: close"))
        if status == 200:
            assert json.loads(found)["outputs"][0]["data"] == [2.0, 4.0, 6.0, 8.0]
            return
        assert status == 503 and time.monotonic() < until


def test_connections_beyond_the_limit_are_told_so(server: Running) -> None:
    with contextlib.ExitStack() as stack:
        open_ = [stack.enter_context(server.connect()) for _ in range(MOST)]
        assert all(map(usable, open_))
        for request in (b"", post(INFER, body()), post(INFER, bytes(MIB))):
            with server.connect() as extra:
                with contextlib.suppress(ConnectionError):
                    extra.sendall(request)
                ((status, headers, text),) = parse_responses(read_all(extra))
            assert status == 503
            assert headers["connection"] == "close"
            assert int(headers["retry-after"]) >= 1
            assert "too many connections" in json.loads(text)["error"]
        assert all(map(usable, open_))  # who was there first loses nothing
    wait_until_served(server)


def test_json_beyond_its_limit_is_refused_before_it_is_sent(server: Running) -> None:
    head = f"POST {INFER} HTTP/1.1\r\nHost: a\r\nContent-Length: {MIB + 1}\r\n\r\n".encode()
    status, _, text = answer(server, head)
    assert status == 413
    error = json.loads(text)["error"]
    assert str(MIB) in error and "binary" in error


def test_a_question_about_the_repository_is_short(server: Running) -> None:
    text = b'{"ready":true,"x":"%b"}' % bytes(100 << 10).replace(b"\0", b"x")
    status, _, _ = answer(server, post("/v2/repository/index", text, "Connection: close"))
    assert status == 413


def test_an_answer_beyond_the_limit_is_refused_as_json_and_given_as_bytes(server: Running) -> None:
    row = np.ones((1, MIB), np.float32).tobytes()
    entry = {"name": "x", "datatype": "FP32", "shape": [1, MIB]}
    entry["parameters"] = {"binary_data_size": len(row)}
    for binary in (False, True):
        text = json.dumps({"inputs": [entry], "parameters": {"binary_data_output": binary}})
        length = f"Inference-Header-Content-Length: {len(text)}"
        request = post("/v2/models/wide/infer", text.encode() + row, length, "Connection: close")
        status, _, found = answer(server, request)
        if binary:
            assert status == 200
            assert found.endswith((2 * np.ones(MIB, np.float32)).tobytes())
        else:
            assert status == 413
            assert "binary_data_output" in json.loads(found)["error"]


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "null", "1e999", '"nan"'])
def test_what_is_no_number_is_refused_in_json(server: Running, value: str) -> None:
    text = body().replace(b"[1, 2, 3, 4]", b"[1, 2, 3, %b]" % value.encode())
    status, _, found = answer(server, post(INFER, text, "Connection: close"))
    assert status == 400, found


def test_nan_travels_as_bytes_and_is_null_in_json(server: Running) -> None:
    values = [float("nan"), float("inf"), float("-inf"), 1.0]
    row = struct.pack("<4f", *values)
    for binary in (False, True):
        text = json.dumps(
            {
                "inputs": [
                    {
                        "name": "x",
                        "datatype": "FP32",
                        "shape": [1, 4],
                        "parameters": {"binary_data_size": 16},
                    }
                ],
                "parameters": {"binary_data_output": binary},
            }
        )
        length = f"Inference-Header-Content-Length: {len(text)}"
        status, _, found = answer(
            server, post(INFER, text.encode() + row, length, "Connection: close")
        )
        assert status == 200
        if binary:
            np.testing.assert_array_equal(
                np.frombuffer(found[-16:], "<f4"), 2 * np.array(values, np.float32)
            )
        else:
            assert json.loads(found)["outputs"][0]["data"] == [None, None, None, 2.0]


@pytest.mark.parametrize(
    "wrong",
    [
        {"datatype": "INT64"},
        {"datatype": "FP64"},
        {"datatype": "BYTES"},
        {"datatype": "fp32"},
        {"datatype": ""},
        {"datatype": 7},
        {"shape": [2**62, 4]},
        {"shape": [2**32, 2**32, 0, 1]},
        {"shape": [-1, 4]},
        {"shape": [4]},
        {"shape": [1, 1] * 40},
        {"name": "../../etc/passwd"},
        {"name": ""},
    ],
)
def test_wrong_inputs_are_refused_without_a_path_or_a_trace(
    server: Running, wrong: dict[str, object]
) -> None:
    status, _, found = answer(server, post(INFER, body(**wrong), "Connection: close"))
    assert status in (400, 413)
    error = json.loads(found)["error"]
    assert "Traceback" not in error and ".py" not in error and ".onnx" not in error


def test_many_empty_strings_are_refused_before_they_are_made(server: Running) -> None:
    count = 2**18 + 1
    entry = {"name": "x", "datatype": "BYTES", "shape": [1, count]}
    entry["parameters"] = {"binary_data_size": 4 * count}
    text = json.dumps({"inputs": [entry]}).encode()
    length = f"Inference-Header-Content-Length: {len(text)}"
    request = post(INFER, text + bytes(4 * count), length, "Connection: close")
    status, _, found = answer(server, request)
    assert status == 413
    assert "strings" in json.loads(found)["error"]


def test_a_bomb_over_grpc_is_refused(server: Running) -> None:
    with grpc.insecure_channel(server.address_of("grpc")) as channel:
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        # 64 MiB of zeros travel as 64 KiB; an unknown field carries them.
        bomb = b"\x9a\x06" + _varint(64 * MIB) + bytes(64 * MIB)
        with pytest.raises(grpc.RpcError) as error:
            infer(bomb, compression=grpc.Compression.Gzip, timeout=120)
        assert error.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        live = channel.unary_unary("/inference.GRPCInferenceService/ServerLive")
        assert live(b"", timeout=120) == b"\x08\x01"


def _varint(number: int) -> bytes:
    digits = []
    while number >= 0x80:
        digits.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*digits, number])


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A good request, or several, with some bytes changed, put in or left out."""
    fields = ("Transfer-Encoding: chunked", "Host: a")
    chunked = "\r\n".join((f"POST {INFER} HTTP/1.1", *fields, "", "")).encode()
    text = body()
    whole = [
        post(INFER, text),
        post(INFER, text, f"Inference-Header-Content-Length: {len(text)}"),
        post(INFER, zlib.compress(text), "Content-Encoding: deflate"),
        post(INFER, text, "Expect: 100-continue", "X-Request-Id: a"),
        chunked + b"%x\r\n%b\r\n0\r\n\r\n" % (len(text), text),
        b"GET /v2/models/affine HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    ]
    request = b"".join(draw(st.lists(st.sampled_from(whole), min_size=1, max_size=3)))
    telling = st.sampled_from([b"\r\n", b"\r\n\r\n", b":", b" ", b"\0", b"-1", b"9" * 20, b"%2f"])
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(request)))
        end = min(len(request), start + draw(st.integers(0, 12)))
        request = request[:start] + draw(telling | st.binary(max_size=12)) + request[end:]
    return request


def hold_against_damage(server: Running, examples: int) -> None:
    @settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(damaged())
    def each(request: bytes) -> None:
        with server.connect() as connection:
            with contextlib.suppress(ConnectionError, OSError):
                connection.sendall(request)
                connection.shutdown(socket.SHUT_WR)
            found = read_all(connection)
        for status, _, text in parse_responses(found):
            assert status in (100, 200, 503) or 400 <= status < 500 or status in (501, 505), found
            assert b"Traceback" not in text and b".py" not in text

    each()
    wait_until_served(server)


def test_damaged_requests(server: Running) -> None:
    hold_against_damage(server, 150)


@pytest.mark.slow
def test_many_damaged_requests(server: Running) -> None:
    hold_against_damage(server, 5000)


def test_a_reset_in_the_middle_of_anything_harms_nobody(server: Running) -> None:
    request = post(INFER, body())
    for end in range(0, len(request) + 1, 7):
        connection = server.connect()
        connection.sendall(request[:end])
        # Lingering for no seconds: the kernel sends a reset instead of an end.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
    wait_until_served(server)


@pytest.mark.parametrize("sent", ["first-token", "other-token", "x", "first-tokem", "x" * 5000])
def test_every_token_is_compared_in_constant_time(
    sent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By `hmac.compare_digest`, each of them, whichever is right, and always in equal lengths."""
    compared = []

    def spy(a: bytes, b: bytes) -> bool:
        compared.append((a, b))
        return compare(a, b)

    compare = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", spy)
    guard = Guard((), ("first-token", "other-token"))
    if sent in ("first-token", "other-token"):
        guard.check_admin(f"Bearer {sent}")
    else:
        with pytest.raises(Unauthorized):
            guard.check_admin(f"Bearer {sent}")
    assert len(compared) == 2
    assert {len(it) for pair in compared for it in pair} == {32}
    assert len({given for given, _ in compared}) == 1
    assert len({known for _, known in compared}) == 2

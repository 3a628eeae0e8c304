"""The HTTP front over raw sockets: what well-behaved clients do, and what others do."""

from __future__ import annotations

import contextlib
import gzip
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from . import serving
from .serving import Running, parse_responses, post
from .waiting import wait_until

INFER = "/v2/models/affine/infer"
CLOSE = "Connection: close"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("models")
    (folder / "serve.yaml").write_text(
        """
models:
  affine: affine.onnx
  slow: {path: slow.onnx, max_batch: 1}
  stuck: {path: affine.onnx, policy: fixed, delay: 1h}
limits:
  head: 8KiB
  body: 4MiB
  json: 1MiB
  in_flight: 6MiB
"""
    )
    serving.affine(folder / "affine.onnx")
    serving.slow(folder / "slow.onnx", depth=6)
    with serving.serving("--config", folder / "serve.yaml") as running:
        yield running
        assert running.stop() == 0
        assert not [it for it in running.events if it["event"] == "fault"]


@pytest.fixture
def impatient(tmp_path: Path) -> Iterator[Running]:
    """Soon tired of clients that send or read too slowly."""
    (tmp_path / "serve.yaml").write_text(
        "models: {affine: affine.onnx, slow: slow.onnx}\n"
        "limits: {header_seconds: 500ms, body_seconds: 500ms, write_seconds: 500ms}\n"
    )
    serving.affine(tmp_path / "affine.onnx")
    serving.slow(tmp_path / "slow.onnx", depth=1)
    with serving.serving("--config", tmp_path / "serve.yaml") as running:
        yield running


def question(number: float = 1.0, rows: int = 1) -> bytes:
    data = [number] * 4 * rows
    entry = {"name": "x", "datatype": "FP32", "shape": [rows, 4], "data": data}
    return json.dumps({"inputs": [entry], "id": str(number)}).encode()


def answer_of(response: tuple[int, dict[str, str], bytes]) -> float:
    status, _, content = response
    assert status == 200, content
    return float(json.loads(content)["outputs"][0]["data"][0])


def refused(data: bytes, status: int) -> str:
    responses = [it for it in parse_responses(data) if it[0] != 100]
    assert [it[0] for it in responses] == [status], data
    ((_, headers, content),) = responses
    assert headers["content-type"] == "application/json"
    message = json.loads(content)["error"]
    assert "/" not in message.replace("HTTP/1.1", "")
    assert "Traceback" not in message
    return str(message)


def test_pipelined_requests_are_answered_in_order(server: Running) -> None:
    requests = [post(INFER, question(number)) for number in range(150)]
    requests.insert(70, b"GET /v2/health/live HTTP/1.1\r\nHost: a\r\n\r\n")
    requests.append(post(INFER, question(-1.0), CLOSE))
    responses = parse_responses(server.talk(b"".join(requests)))
    assert json.loads(responses.pop(70)[2]) == {"live": True}
    assert [answer_of(it) / 2 for it in responses] == [*range(150), -1]


def test_pieces_of_any_size(server: Running) -> None:
    whole = post(INFER, question(3.0)) + post(INFER, question(4.0), CLOSE)
    for step in (1, 7, 100):
        with server.connect() as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for start in range(0, len(whole), step):
                connection.sendall(whole[start : start + step])
            responses = parse_responses(serving.read_all(connection))
        assert [answer_of(it) for it in responses] == [6.0, 8.0]


def test_chunked_bodies(server: Running) -> None:
    body = question(5.0)
    chunks = b"".join(
        b"%x;ext=1\r\n%b\r\n" % (len(piece), piece) for piece in (body[:1], body[1:50], body[50:])
    )
    head = f"POST {INFER} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    whole = (head + chunks + b"0\r\nTrailer: x\r\n\r\n") * 2 + post(INFER, question(6.0), CLOSE)
    responses = parse_responses(server.talk(whole))
    assert [answer_of(it) for it in responses] == [10.0, 10.0, 12.0]


def test_expect_continue(server: Running) -> None:
    body = question(7.0)
    head = post(INFER, body, "Expect: 100-continue")[: -len(body)]
    with server.connect() as connection:
        connection.sendall(head)
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(body)
        assert answer_of(parse_responses(connection.recv(1 << 16))[0]) == 14.0
    absent = head.replace(b"affine", b"absent")
    assert "no model" in refused(server.talk(absent), 404)
    large = (
        b"POST %b HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 99999999\r\n\r\n"
    )
    refused(server.talk(large % INFER.encode()), 413)
    refused(server.talk(post(INFER, b"{}", "Expect: a miracle", CLOSE)), 417)


def test_upgrades_are_ignored(server: Running) -> None:
    wish = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk")
    whole = post(INFER, question(8.0), *wish)
    for step in (len(whole), 30):
        with server.connect() as connection:
            for start in range(0, len(whole), step):
                connection.sendall(whole[start : start + step])
                time.sleep(0.001)
            connection.sendall(post(INFER, question(9.0), CLOSE))
            responses = parse_responses(serving.read_all(connection))
        assert [answer_of(it) for it in responses] == [16.0, 18.0]


def test_http_1_0(server: Running) -> None:
    old = post(INFER, question(1.0)).replace(b"HTTP/1.1", b"HTTP/1.0")
    assert answer_of(parse_responses(server.talk(old))[0]) == 2.0
    kept = post(INFER, question(1.0), "Connection: keep-alive").replace(b"HTTP/1.1", b"HTTP/1.0")
    first, second = parse_responses(server.talk(kept + old))
    assert first[1]["connection"] == "keep-alive"
    assert second[1]["connection"] == "close"


def test_head_has_no_body(server: Running) -> None:
    data = server.talk(b"HEAD /v2 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert data.startswith(b"HTTP/1.1 200 OK")
    assert data.endswith(b"\r\n\r\n")


def test_request_ids_come_back(server: Running) -> None:
    ((_, headers, _),) = parse_responses(
        server.talk(post(INFER, question(), "X-Request-Id: trace-7", CLOSE))
    )
    assert headers["x-request-id"] == "trace-7"
    ((_, headers, _),) = parse_responses(
        server.talk(post(INFER, question(), "X-Request-Id: not one", CLOSE))
    )
    assert "x-request-id" not in headers


@pytest.mark.parametrize(
    "nonsense",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),  # TLS
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\x00 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        b"POST /v2/models/affine/infer HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n folded: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHo\x01st: a\r\n\r\n",
    ],
)
def test_what_is_not_http(server: Running, nonsense: bytes) -> None:
    responses = parse_responses(server.talk(nonsense))
    assert [it[0] for it in responses][-1:] == [400]
    assert len(responses) == 1


def test_what_came_before_nonsense_is_answered_first(server: Running) -> None:
    responses = parse_responses(server.talk(post(INFER, question(2.0)) + b"\x00nonsense\r\n\r\n"))
    assert answer_of(responses[0]) == 4.0
    assert responses[1][0] == 400


def test_limits_of_the_head(server: Running) -> None:
    start = b"GET /v2 HTTP/1.1\r\nHost: a\r\n"
    refused(server.talk(start + b"A: b\r\n" * 3000 + CLOSE.encode() + b"\r\n\r\n"), 431)
    refused(server.talk(start + b"A: " + b"b" * 9000 + b"\r\n" + CLOSE.encode() + b"\r\n\r\n"), 431)
    refused(server.talk(start + b"A: " + b"b" * 9000), 431)  # never complete
    refused(server.talk(b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n\r\n"), 414)
    assert (
        parse_responses(
            server.talk(start + b"A: " + b"b" * 7000 + b"\r\nConnection: close\r\n\r\n")
        )[0][0]
        == 200
    )


def test_limits_of_the_body(server: Running) -> None:
    assert "4194304" in refused(server.talk(post(INFER, bytes(5 << 20))), 413)
    lie = f"POST {INFER} HTTP/1.1\r\nHost: a\r\nContent-Length: {1 << 40}\r\n\r\n".encode()
    refused(server.talk(lie + bytes(1000)), 413)
    chunk = b"100000\r\n" + bytes(1 << 20) + b"\r\n"
    head = f"POST {INFER} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    refused(server.talk(head + chunk * 6), 413)
    assert "binary" in refused(server.talk(post(INFER, b" " * (2 << 20), CLOSE)), 413)
    # One that was refused and small leaves the connection as it was.
    responses = parse_responses(
        server.talk(post("/v2/models/absent/infer", question()) + post(INFER, question(), CLOSE))
    )
    assert [it[0] for it in responses] == [404, 200]


def test_bombs(server: Running) -> None:
    before = psutil.Process(server.process.pid).memory_info().rss
    bomb = gzip.compress(bytes(100 << 20), 1)
    for _ in range(3):
        refused(server.talk(post(INFER, bomb, "Content-Encoding: gzip", CLOSE)), 413)
    after = psutil.Process(server.process.pid).memory_info().rss
    assert after - before < 64 << 20
    refused(server.talk(post(INFER, b"nonsense", "Content-Encoding: gzip", CLOSE)), 400)
    refused(server.talk(post(INFER, question(), "Content-Encoding: br", CLOSE)), 400)


def test_lying_lengths(server: Running) -> None:
    for value in ("-1", "x", "9" * 30, "99999", "1", ""):
        header = f"Inference-Header-Content-Length: {value}"
        refused(server.talk(post(INFER, question(), header, CLOSE)), 400)
    twice = ("Inference-Header-Content-Length: 5", "Inference-Header-Content-Length: 6")
    refused(server.talk(post(INFER, question(), *twice, CLOSE)), 400)


@pytest.mark.parametrize(
    "name",
    [
        "..",
        "%2e%2e",
        "..%2f..%2fetc%2fpasswd",
        "a%00b",
        "%00",
        "a%2fb",
        "stats",
        "a b",
        "%ff",
        "%",
        "a" * 200,
        "-x",
        ".hidden",
    ],
)
def test_names_that_are_none(server: Running, name: str) -> None:
    for path in (f"/v2/models/{name}/infer", f"/v2/models/{name}/versions/1/infer"):
        data = server.talk(post(path.replace(" ", "%20"), question(), CLOSE))
        ((status, _, content),) = parse_responses(data)
        assert status in (400, 404)
        assert set(json.loads(content)) == {"error"}
    for path in (f"/v2/models/affine/versions/{name}/infer",):
        ((status, _, _),) = parse_responses(
            server.talk(post(path.replace(" ", "%20"), question(), CLOSE))
        )
        assert status in (400, 404)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", INFER, 405),
        ("POST", "/v2/models/affine", 405),
        ("DELETE", "/v2", 405),
        ("OPTIONS", "/v2", 405),
        ("GET", "/../../etc/passwd", 404),
        ("GET", "/v2//models", 404),
        ("GET", "//v2", 404),
        ("GET", "/v3", 404),
        ("GET", "/v2/models/affine/versions", 404),
        ("POST", "/v2/repository/models/affine/load", 403),
        ("POST", "/v2/repository/models/affine/unload", 403),
        ("CONNECT", "example.org:443", 400),
        ("GET", "http://example.org/v2", 200),
        ("GET", "/v2/?x=1#y", 200),
    ],
)
def test_paths_and_methods(server: Running, method: str, path: str, status: int) -> None:
    data = server.talk(f"{method} {path} HTTP/1.1\r\nHost: a\r\n{CLOSE}\r\n\r\n".encode())
    ((found, headers, content),) = parse_responses(data)
    assert found == status
    if status == 405:
        assert headers["allow"] in ("POST", "GET, HEAD")
    if status >= 400:
        assert "etc" not in json.loads(content)["error"]


def test_half_closed_sockets_are_answered(server: Running) -> None:
    for request in (post(INFER, question(3.0)), post(INFER, question(3.0), CLOSE)):
        responses = [
            it for it in parse_responses(server.talk(request, half_close=True)) if it[0] != 100
        ]
        assert answer_of(responses[0]) == 6.0
    assert server.talk(post(INFER, question())[:-5], half_close=True) == b""
    assert server.talk(b"GET /v2 HT", half_close=True) == b""
    assert server.talk(b"", half_close=True) == b""


def test_who_is_too_slow_is_sent_away(impatient: Running) -> None:
    with impatient.connect() as head, impatient.connect() as body, impatient.connect() as drip:
        head.sendall(b"GET /v2 HTTP/1.1\r\nHost:")
        body.sendall(post(INFER, question())[:-5])
        drip.sendall(b"GET /v2 HTTP/1.1\r\nA: ")
        drip.settimeout(0.05)
        said = b""
        for _ in range(1200):
            with contextlib.suppress(TimeoutError):
                said = drip.recv(1 << 16)
                break
            drip.sendall(b"b")
        assert refused(said, 408)
        assert refused(serving.read_all(head), 408)
        assert refused(serving.read_all(body), 408)
    with impatient.connect() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(0.5)
        with contextlib.suppress(OSError):  # it stops reading, or gives the connection up
            for _ in range(200):
                connection.sendall(large_question())
            raise AssertionError("it reads on while nobody reads its answers")
        wait_until(lambda: overview(impatient)["connections"] == 1)
    wait_until(lambda: overview(impatient)["in_flight_bytes"] == 0)


def large_question() -> bytes:
    entry = {"name": "x", "datatype": "FP32", "shape": [1, 256, 256]}
    entry["parameters"] = {"binary_data_size": 4 << 16}
    text = json.dumps({"inputs": [entry], "parameters": {"binary_data_output": True}}).encode()
    header = f"Inference-Header-Content-Length: {len(text)}"
    return post("/v2/models/slow/infer", text + bytes(4 << 16), header)


def test_who_goes_away_takes_the_request_back(server: Running) -> None:
    def figures() -> dict[str, int]:
        return next(it for it in overview(server)["models"] if it["name"] == "stuck")

    connections = [server.connect() for _ in range(20)]
    for connection in connections:
        connection.sendall(post("/v2/models/stuck/infer", question()))
    wait_until(lambda: figures()["waiting"] == 20)
    for connection in connections:  # a plain close, without a reset
        connection.close()
    wait_until(lambda: figures()["waiting"] == 0)
    assert figures()["cancelled"] == 20
    assert figures()["success"] == 0
    wait_until(lambda: overview(server)["in_flight_bytes"] == 0)


def test_in_flight_bytes_are_bounded(server: Running) -> None:
    fields = ("Host: a", "Inference-Header-Content-Length: 99", f"Content-Length: {4 << 20}")
    head = "\r\n".join((f"POST {INFER} HTTP/1.1", *fields, "", "")).encode()
    with server.connect() as first, server.connect() as second:
        first.sendall(head + bytes((4 << 20) - 1))
        # The last part, of at most a MiB, is taken from the kernel when all of it is there.
        wait_until(lambda: overview(server)["in_flight_bytes"] >= 3 << 20)
        second.sendall(head)
        with contextlib.suppress(ConnectionError):
            second.sendall(bytes(4 << 20))
        responses = parse_responses(serving.read_all(second))
        assert responses[0][0] == 503
        assert int(responses[0][1]["retry-after"]) >= 1
    wait_until(lambda: overview(server)["in_flight_bytes"] == 0)


def test_large_binary_tensors(server: Running) -> None:
    rows = np.random.default_rng(0).standard_normal((3, 256, 256)).astype(np.float32)
    for row in rows:
        entry = {"name": "x", "datatype": "FP32", "shape": [1, 256, 256]}
        entry["parameters"] = {"binary_data_size": row.nbytes}
        document = {"inputs": [entry], "parameters": {"binary_data_output": True}}
        text = json.dumps(document).encode()
        header = f"Inference-Header-Content-Length: {len(text)}"
        data = server.talk(post("/v2/models/slow/infer", text + row.tobytes(), header, CLOSE))
        ((status, headers, content),) = parse_responses(data)
        assert status == 200
        length = int(headers["inference-header-content-length"])
        answer = np.frombuffer(content[length:], np.float32).reshape(256, 256)
        expected = row
        for _ in range(6):
            expected = np.tanh(expected @ (np.eye(256, dtype=np.float32) * 0.5))
        np.testing.assert_allclose(answer, expected, atol=1e-5)


def test_page_and_descriptions(server: Running) -> None:
    for path, kind in (("/", "text/html"), ("/openapi.json", "application/json")):
        data = server.talk(f"GET {path} HTTP/1.1\r\nHost: a\r\n{CLOSE}\r\n\r\n".encode())
        ((status, headers, content),) = parse_responses(data)
        assert status == 200
        assert headers["content-type"].startswith(kind)
        if path == "/":
            assert "default-src 'none'" in headers["content-security-policy"]
            assert b"http://" not in content.replace(b"http://www.w3.org/2000/svg", b"")
            assert b"https://" not in content


def overview(server: Running) -> dict[str, Any]:
    data = server.talk(f"GET /overview.json HTTP/1.1\r\nHost: a\r\n{CLOSE}\r\n\r\n".encode())
    document = json.loads(parse_responses(data)[0][2])
    assert isinstance(document, dict)
    return document

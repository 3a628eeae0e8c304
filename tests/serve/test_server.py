"""The process: start, dry run, tokens, TLS, drain, logs."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from . import serving
from .serving import Running, parse_responses, post

CLOSE = "Connection: close"
BODY = json.dumps(
    {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]}
).encode()
INFER = "/v2/models/affine/infer"


def strop(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from strop.cli import main; main()", "serve"]
    return subprocess.run(
        [*command, *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False
    )


def get(path: str, *headers: str) -> bytes:
    lines = [f"GET {path} HTTP/1.1", "Host: a", CLOSE, *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def status_of(data: bytes) -> int:
    return parse_responses(data)[-1][0]


def big_question() -> bytes:
    rows = np.zeros((1, 256, 256), np.float32)
    entry = {"name": "x", "datatype": "FP32", "shape": list(rows.shape)}
    entry["parameters"] = {"binary_data_size": rows.nbytes}
    text = json.dumps({"inputs": [entry], "outputs": [{"name": "y"}]}).encode()
    header = f"Inference-Header-Content-Length: {len(text)}"
    return post("/v2/models/slow/infer", text + rows.tobytes(), header)


def test_dry_run(tmp_path: Path) -> None:
    model = serving.affine(tmp_path / "affine.onnx")
    good = strop(model, "--dry-run")
    assert good.returncode == 0, good.stderr
    assert good.stdout.splitlines() == ["ready to serve affine: every model loads and answers"]
    (tmp_path / "broken.onnx").write_bytes(b"not a model")
    bad = strop(tmp_path / "broken.onnx", "--dry-run")
    assert bad.returncode == 2
    last = bad.stderr.splitlines()[-1]
    assert last.startswith("strop: ")
    assert "broken.onnx" in last
    assert "Traceback" not in bad.stderr


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    model = serving.affine(tmp_path / "affine.onnx")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        failed = strop(model, "--http", str(port), "--grpc", "off", "--metrics", "off")
    assert failed.returncode == 2
    assert f"port {port}" in failed.stderr.splitlines()[-1]


def test_drain_answers_what_was_taken(tmp_path: Path) -> None:
    model = serving.slow(tmp_path / "slow.onnx", depth=400)
    with serving.serving(model, "--max-batch", "1") as server:
        answers: list[bytes] = []

        def ask() -> None:
            answers.append(server.talk(big_question(), half_close=False))

        asking = [threading.Thread(target=ask) for _ in range(8)]
        watching = server.connect()
        for thread in asking:
            thread.start()
        watching.sendall(get("/v2/health/ready").replace(CLOSE.encode(), b"A: b"))
        assert parse_responses(watching.recv(1 << 16))[0][0] == 200
        end = time.monotonic() + 10
        seen, looks = 0, 0
        while seen - looks < 9:  # the eight questions and the one about readiness
            assert time.monotonic() < end
            looks += 1
            overview = json.loads(parse_responses(server.talk(get("/overview.json")))[0][2])
            seen = overview["requests"]
        begin = time.monotonic()
        server.process.terminate()
        server.wait_for("draining")
        watching.sendall(get("/v2/health/ready"))
        assert status_of(serving.read_all(watching)) == 503
        watching.close()
        with contextlib.suppress(OSError):
            assert status_of(server.talk(big_question())) == 503
        for thread in asking:
            thread.join(30)
        assert server.process.wait(30) == 0
        assert time.monotonic() - begin < 30
    assert [status_of(it) for it in answers] == [200] * 8
    assert server.wait_for("stopped", 1)["answered"] is True


def test_drain_has_a_limit(tmp_path: Path) -> None:
    model = serving.slow(tmp_path / "slow.onnx", depth=400)
    with (
        serving.serving(model, "--max-batch", "1", "--drain", "100ms") as server,
        contextlib.ExitStack() as held,
    ):
        connections = [held.enter_context(server.connect()) for _ in range(40)]
        for connection in connections:
            connection.sendall(big_question())
        time.sleep(0.2)
        begin = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - begin < 8
        statuses = [status_of(serving.read_all(it)) for it in connections]
        assert 503 in statuses
        assert set(statuses) <= {200, 503}


def test_nobody_is_told_that_a_model_is_unknown_while_it_loads(tmp_path: Path) -> None:
    model = serving.slow(tmp_path / "slow.onnx", depth=100)
    affine = f"affine={serving.affine(tmp_path / 'a.onnx')}"
    with serving.serving(model, affine, "--max-batch", "1", ready=False) as it:
        seen = set()
        while not any(entry["event"] == "ready" for entry in it.events):
            seen.add(status_of(it.talk(post(INFER, BODY, CLOSE))))
            live, ready = (
                status_of(it.talk(get(f"/v2/health/{what}"))) for what in ("live", "ready")
            )
            assert live == 200
            assert ready in (200, 503)
        assert seen <= {200, 503}
        assert status_of(it.talk(post(INFER, BODY, CLOSE))) == 200


def test_tokens(tmp_path: Path) -> None:
    (tmp_path / "admin").write_text("admin-secret\n")
    (tmp_path / "infer").write_text("# two clients\ninfer-secret-1\ninfer-secret-2\n")
    model = serving.affine(tmp_path / "affine.onnx")
    with serving.serving(
        model, "--token-file", tmp_path / "admin", "--infer-token-file", tmp_path / "infer"
    ) as server:

        def infer(*headers: str) -> int:
            return status_of(server.talk(post(INFER, BODY, CLOSE, *headers)))

        def unload(*headers: str) -> int:
            path = "/v2/repository/models/absent/unload"
            return status_of(server.talk(post(path, b"", CLOSE, *headers)))

        assert infer() == 401
        assert infer("Authorization: Bearer infer-secret-3") == 401
        assert infer("Authorization: Basic infer-secret-1") == 401
        assert infer("Authorization: Bearer ") == 401
        assert infer("Authorization: Bearer infer-secret-1", "Authorization: Bearer x") == 400
        for token in ("infer-secret-1", "infer-secret-2", "admin-secret"):
            assert infer(f"Authorization: Bearer {token}") == 200
        assert infer("authorization: bearer infer-secret-2") == 200
        assert unload() == 401
        assert unload("Authorization: Bearer infer-secret-1") == 401
        assert unload("Authorization: Bearer admin-secret") == 404
        for path, status in (
            ("/v2/health/live", 200),
            ("/v2/health/ready", 200),
            ("/v2/models/affine/ready", 200),
            ("/", 200),
            ("/openapi.json", 200),
            ("/overview.json", 401),
            ("/v2", 401),
            ("/v2/models/affine", 401),
            ("/v2/models/stats", 401),
        ):
            assert status_of(server.talk(get(path))) == status, path
        ((_, headers, _),) = parse_responses(server.talk(get("/v2")))
        assert headers["www-authenticate"].startswith("Bearer")


def test_tls(tmp_path: Path) -> None:
    made = subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-keyout", tmp_path / "key.pem", "-out", tmp_path / "cert.pem"),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"),
        ],
        capture_output=True,
        check=False,
    )
    if made.returncode:
        pytest.skip("there is no openssl here")
    model = serving.slow(tmp_path / "slow.onnx", depth=2)
    affine = serving.affine(tmp_path / "affine.onnx")
    context = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
    with serving.serving(
        model, affine, "--tls-cert", tmp_path / "cert.pem", "--tls-key", tmp_path / "key.pem"
    ) as server:
        with context.wrap_socket(server.connect(), server_hostname="localhost") as connection:
            connection.sendall(post(INFER, BODY))
            assert status_of(connection.recv(1 << 16)) == 200
            question = big_question().replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1)
            connection.sendall(question)
            ((status, _, content),) = parse_responses(serving.read_all(connection))
            assert status == 200
            assert len(content) > 1 << 18
        assert server.talk(post(INFER, BODY))[:8] != b"HTTP/1.1"
        assert server.stop() == 0


def test_requests_are_logged_when_asked(tmp_path: Path) -> None:
    with serving.serving(serving.affine(tmp_path / "affine.onnx"), "--log-requests") as server:
        server.talk(post(INFER, BODY, CLOSE, "X-Request-Id: abc"))
        ((_, headers, _),) = parse_responses(server.talk(post(INFER, b"{", CLOSE)))
        first, second = server.wait_for("request"), server.wait_for("request")
        assert (first["request"], first["status"], first["target"]) == ("abc", 200, INFER)
        assert first["bytes_in"] == len(BODY)
        assert first["seconds"] > 0
        assert second["status"] == 400
        assert second["request"] == headers["x-request-id"]
        assert server.stop() == 0


def test_a_model_that_raises_leaks_nothing(tmp_path: Path) -> None:
    from onnx import TensorProto, helper

    node = helper.make_node("Reshape", ["x", "s"], ["y"])
    model = serving._save(
        tmp_path / "fussy.onnx",
        [node],
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"]),
            helper.make_tensor_value_info("s", TensorProto.INT64, [1]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["m"])],
    )
    with serving.serving(model) as server:
        for size, status in ((3, 200), (4, 500)):
            document = {
                "inputs": [
                    {"name": "x", "datatype": "FP32", "shape": [3], "data": [1, 2, 3]},
                    {"name": "s", "datatype": "INT64", "shape": [1], "data": [size]},
                ]
            }
            data = server.talk(post("/v2/models/fussy/infer", json.dumps(document).encode(), CLOSE))
            ((found, _, content),) = parse_responses(data)
            assert found == status, content
        message = json.loads(content)["error"]
        for word in (str(tmp_path), ".onnx", "Traceback", "onnxruntime", ".cc"):
            assert word not in message
        assert server.stop() == 0


@pytest.fixture
def running(tmp_path: Path):
    with serving.serving(serving.affine(tmp_path / "affine.onnx")) as server:
        yield server


def test_a_second_signal_does_not_wait(tmp_path: Path) -> None:
    model = serving.slow(tmp_path / "slow.onnx", depth=1000)
    with (
        serving.serving(model, "--max-batch", "1") as server,
        contextlib.ExitStack() as held,
    ):
        connections = [held.enter_context(server.connect()) for _ in range(30)]
        for connection in connections:
            connection.sendall(big_question())
        time.sleep(0.3)
        server.process.terminate()
        server.wait_for("draining")
        begin = time.monotonic()
        server.process.terminate()
        assert server.process.wait(20) == 1
        assert time.monotonic() - begin < 8


def test_connections_that_stay_idle_do_not_hold_up_the_end(running: Running) -> None:
    with running.connect() as idle:
        idle.sendall(get("/v2").replace(CLOSE.encode(), b"A: b"))
        idle.recv(1 << 16)
        begin = time.monotonic()
        assert running.stop() == 0
        assert time.monotonic() - begin < 5
        assert serving.read_all(idle) == b""

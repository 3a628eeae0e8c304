"""The process: start, dry run, tokens, TLS, drain, logs."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from strop.errors import InputError
from strop.serve.batcher import Batcher
from strop.serve.config import ServerConfig, from_options
from strop.serve.logs import Log
from strop.serve.server import Server, check
from strop.serve.settings import ModelSettings

from . import fakes, serving
from .serving import Running, parse_responses, post
from .waiting import END, until, wait_until

CLOSE = "Connection: close"
BODY = json.dumps(
    {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]}
).encode()
INFER = "/v2/models/affine/infer"


def strop(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    start = "from strop.cli import main; main()"
    command = [sys.executable, "-c", start, "serve", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=2 * END, check=False)


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


def test_a_dry_run_tries_the_address_and_looks_for_grpc(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = str(serving.affine(tmp_path / "affine.onnx"))
    elsewhere = "203.0.113.7"  # of a network that is for documentation alone (RFC 5737)
    with pytest.raises(InputError, match=f"cannot listen on '{elsewhere}'"):
        check(from_options([model], server={"host": elsewhere}))
    monkeypatch.setitem(sys.modules, "strop.serve.grpc_front", None)
    with pytest.raises(InputError, match="grpc"):
        check(from_options([model], server={"grpc": "9001"}))


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    model = serving.affine(tmp_path / "affine.onnx")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        failed = strop(model, "--http", str(port), "--grpc", "off", "--metrics", "off")
    assert failed.returncode == 2
    assert f"port {port}" in failed.stderr.splitlines()[-1]


def test_drain_answers_what_was_taken_and_refuses_the_rest(tmp_path: Path) -> None:
    """In this process, where the model computes when the test lets it."""

    async def main() -> None:
        path = serving.affine(tmp_path / "affine.onnx")
        config = ServerConfig(
            models={"affine": ModelSettings(path=path, threads=1)}, http=0, grpc=None, metrics=None
        )
        server = Server(config, Log(io.StringIO()))
        await server.load()
        await server.listen()
        session = fakes.Doubling()
        session.gate.clear()
        batcher = Batcher(fakes.served(session, max_batch=1), asyncio.get_running_loop())
        entry = server.core.repository._entries["affine"]
        entry.batchers["1"] = entry.newest = batcher

        async def asked(data: bytes) -> tuple[Any, asyncio.StreamWriter]:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.ports["http"])
            writers.append(writer)
            writer.write(data)
            return reader, writer

        writers: list[asyncio.StreamWriter] = []

        taken = [await asked(post(INFER, BODY, CLOSE)) for _ in range(4)]
        watching, watch = await asked(get("/v2/health/ready").replace(CLOSE.encode(), b"A: b"))
        assert status_of(await watching.read(1 << 16)) == 200
        refused, late = await asked(b"")
        await until(lambda: batcher.running_rows + batcher.queued == 4)
        draining = asyncio.ensure_future(server.drain())
        await until(lambda: not server.core.ready())
        watch.write(get("/v2/health/ready"))
        assert status_of(await watching.read()) == 503
        late.write(post(INFER, BODY, CLOSE))
        assert status_of(await refused.read()) == 503
        assert not draining.done()
        session.gate.set()
        for reader, _ in taken:
            assert status_of(await reader.read()) == 200
        assert await draining
        assert session.batches == [1] * 4
        for writer in writers:
            writer.close()
            await writer.wait_closed()

    asyncio.run(asyncio.wait_for(main(), 2 * END))


@pytest.fixture
def holding(tmp_path: Path) -> Iterator[Running]:
    """A server with 20 requests that wait for an hour, on connections that stay open."""
    serving.affine(tmp_path / "affine.onnx")
    (tmp_path / "serve.yaml").write_text(
        "models: {affine: {path: affine.onnx, policy: fixed, delay: 1h}}\ndrain: 100ms\n"
    )
    with (
        serving.serving("--config", tmp_path / "serve.yaml") as server,
        contextlib.ExitStack() as held,
    ):
        server.held = [held.enter_context(server.connect()) for _ in range(20)]
        for connection in server.held:
            connection.sendall(post(INFER, BODY))

        def waiting() -> int:
            (affine,) = json.loads(parse_responses(server.talk(get("/overview.json")))[0][2])[
                "models"
            ]
            return int(affine["waiting"])

        wait_until(lambda: waiting() == 20)
        yield server


def test_drain_has_a_limit(holding: Running) -> None:
    assert holding.stop() == 0
    assert [status_of(serving.read_all(it)) for it in holding.held] == [503] * 20
    assert holding.wait_for("stopped")["answered"] is False


def test_nobody_is_told_that_a_model_is_unknown_while_it_loads(tmp_path: Path) -> None:
    model = serving.slow(tmp_path / "slow.onnx", depth=20)
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
    cert, key = serving.certificate(tmp_path)
    model = serving.slow(tmp_path / "slow.onnx", depth=2)
    affine = serving.affine(tmp_path / "affine.onnx")
    context = ssl.create_default_context(cafile=str(cert))
    with serving.serving(model, affine, "--tls-cert", cert, "--tls-key", key) as server:
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


def test_a_second_signal_does_not_wait(tmp_path: Path) -> None:
    serving.affine(tmp_path / "affine.onnx")
    (tmp_path / "serve.yaml").write_text(
        "models: {affine: {path: affine.onnx, policy: fixed, delay: 1h}}\ndrain: 1h\n"
    )
    with (
        serving.serving("--config", tmp_path / "serve.yaml") as server,
        server.connect() as connection,
    ):
        connection.sendall(post(INFER, BODY))
        wait_until(lambda: b'"waiting":1,' in server.talk(get("/overview.json")))
        server.process.terminate()
        server.wait_for("draining")
        assert server.process.poll() is None
        server.process.terminate()
        assert server.process.wait(END) == 1


def test_connections_that_stay_idle_do_not_hold_up_the_end(tmp_path: Path) -> None:
    model = serving.affine(tmp_path / "affine.onnx")
    with serving.serving(model, "--drain", "1h") as server, server.connect() as idle:
        idle.sendall(get("/v2").replace(CLOSE.encode(), b"A: b"))
        idle.recv(1 << 16)
        assert server.stop() == 0
        assert serving.read_all(idle) == b""

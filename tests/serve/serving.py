"""Models and a running server for the tests of the HTTP front."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from .waiting import END


@dataclass
class Running:
    """A server in a process of its own."""

    process: subprocess.Popen[str]
    events: list[dict[str, Any]] = field(default_factory=list)
    port: int = 0
    fresh: queue.Queue[dict[str, Any]] = field(default_factory=queue.Queue)
    held: list[socket.socket] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def address_of(self, front: str) -> str:
        """Where a front listens, once the server is ready."""
        name = "listening" if front == "http" else f"listening-{front}"
        (event,) = (it for it in self.events if it.get("event") == name)
        address = str(event.get("address") or event["url"])
        return address.partition("://")[2].partition("/")[0] or address

    def wait_for(self, event: str, seconds: float = END) -> dict[str, Any]:
        end = time.monotonic() + seconds
        while True:
            found = self.fresh.get(timeout=max(0.01, end - time.monotonic()))
            if found.get("event") == event:
                return found

    def stop(self, seconds: float = END) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=END)

    @contextlib.contextmanager
    def asleep(self) -> Iterator[None]:
        """Meanwhile it does nothing; what is sent to it waits, and then comes all at once."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def talk(self, *pieces: bytes, half_close: bool = False) -> bytes:
        """Everything the server says to these bytes until it closes the connection."""
        with self.connect() as connection:
            for piece in pieces:
                connection.sendall(piece)
            if half_close:
                connection.shutdown(socket.SHUT_WR)
            return read_all(connection)


@contextlib.contextmanager
def serving(
    *arguments: str | Path, ready: bool = True, grpc: bool = False, metrics: bool = False
) -> Iterator[Running]:
    start = "from strop.cli import main; main()"
    command = [sys.executable, "-c", start, "serve", *map(str, arguments)]
    command += ["--http", "0", "--threads", "1"]
    command += ["--grpc", "0" if grpc else "off", "--metrics", "0" if metrics else "off"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment
    )
    running = Running(process)

    def read() -> None:
        assert process.stderr is not None
        for text in process.stderr:
            try:
                event = json.loads(text)
            except ValueError:
                event = {"event": "text", "text": text}
            running.events.append(event)
            running.fresh.put(event)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        try:
            running.port = int(running.wait_for("listening", 4 * END)["url"].rpartition(":")[2])
            if ready:
                running.wait_for("ready", 4 * END)
        except queue.Empty:
            raise AssertionError(f"the server did not start: {running.events}") from None
        yield running
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(END)
        reader.join(END)
        assert process.stderr is not None
        process.stderr.close()


def read_all(connection: socket.socket) -> bytes:
    data = b""
    while True:
        try:
            piece = connection.recv(1 << 16)
        except ConnectionResetError:
            return data
        if not piece:
            return data
        data += piece


def parse_responses(data: bytes) -> list[tuple[int, dict[str, str], bytes]]:
    """Status, headers and body of every response in a stream; interim ones have no body."""
    found = []
    while data:
        head, _, rest = data.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        headers = {}
        for text in lines[1:]:
            name, _, value = text.partition(": ")
            headers[name.lower()] = value
        status = int(lines[0].split(" ")[1])
        length = int(headers.get("content-length", "0"))
        found.append((status, headers, rest[:length]))
        data = rest[length:]
    return found


def post(path: str, body: bytes, *headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: test", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate of ``localhost`` and its key; skips the test where openssl is missing."""
    cert, key = folder / "cert.pem", folder / "key.pem"
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl here")
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt"),
            *("ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-keyout", key, "-out", cert),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"),
        ],
        capture_output=True,
        check=True,
    )
    return cert, key


def affine(path: Path, width: int = 4, factor: float = 2.0) -> Path:
    """y = factor * x of float32[n, width]."""
    constant = helper.make_tensor("k", TensorProto.FLOAT, [], [factor])
    return _save(
        path,
        [helper.make_node("Mul", ["x", "k"], ["y"])],
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", width])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", width])],
        [constant],
    )


def text(path: Path) -> Path:
    """The same strings again."""
    return _save(
        path,
        [helper.make_node("Identity", ["s"], ["t"])],
        [helper.make_tensor_value_info("s", TensorProto.STRING, ["n", 2])],
        [helper.make_tensor_value_info("t", TensorProto.STRING, ["n", 2])],
    )


def two_of_each(path: Path) -> Path:
    """sum and difference of int32[n, 16]."""
    values = [helper.make_tensor_value_info(it, TensorProto.INT32, ["n", 16]) for it in "abpq"]
    return _save(
        path,
        [
            helper.make_node("Add", ["a", "b"], ["p"]),
            helper.make_node("Sub", ["a", "b"], ["q"]),
        ],
        values[:2],
        values[2:],
    )


def slow(path: Path, width: int = 256, depth: int = 60) -> Path:
    """Matrix products one after another: some milliseconds a row."""
    import numpy as np

    weights = np.eye(width, dtype=np.float32) * 0.5
    nodes, last = [], "x"
    for step in range(depth):
        nodes.append(helper.make_node("MatMul", [last, "w"], [f"h{step}"]))
        nodes.append(helper.make_node("Tanh", [f"h{step}"], [f"t{step}"]))
        last = f"t{step}"
    nodes.append(helper.make_node("Identity", [last], ["y"]))
    shape = ["n", width, width]
    return _save(
        path,
        nodes,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [onnx.numpy_helper.from_array(weights, "w")],
    )


def _save(path: Path, nodes: Any, inputs: Any, outputs: Any, constants: Any = ()) -> Path:
    graph = helper.make_graph(nodes, "graph", inputs, outputs, initializer=list(constants))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path

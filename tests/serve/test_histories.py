"""What went wrong in other servers, asked of this one; each test is named after its issue.

One server process with models that compute ``y = 2 x`` after a stretch of matrix products: `light`
(at most 4 rows a batch), `single` (1 row a batch), `heavy` (1 row a batch, some milliseconds a
request), and `stuck`, whose queue of 40 waits for more for an hour.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import queue
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from . import fakes, serving
from .serving import Running
from .waiting import END, wait_until

triton = pytest.importorskip("tritonclient.grpc")

TOKEN = "admin-token-of-the-tests"
PENDING = 'nv_inference_pending_request_count{model="%s"'
ROW = np.ones((1, 4), np.float32)


def network(path: Path, width: int, depth: int) -> Path:
    """``y = 2 x`` of float32[n, 4], with `depth` products of width² beside it that add nothing."""
    random = np.random.default_rng(0)
    nodes = [helper.make_node("MatMul", ["x", "first"], ["h0"])]
    for step in range(depth):
        nodes += [
            helper.make_node("MatMul", [f"h{step}", "w"], [f"m{step}"]),
            helper.make_node("Tanh", [f"m{step}"], [f"h{step + 1}"]),
        ]
    nodes += [
        helper.make_node("ReduceSum", [f"h{depth}", "axes"], ["s"], keepdims=1),
        helper.make_node("Mul", ["s", "zero"], ["z"]),
        helper.make_node("Mul", ["x", "two"], ["d"]),
        helper.make_node("Add", ["d", "z"], ["y"]),
    ]
    constants = {
        "first": random.standard_normal((4, width)).astype(np.float32),
        "w": (random.standard_normal((width, width)) / width).astype(np.float32),
        "axes": np.array([1], np.int64),
        "zero": np.float32(0),
        "two": np.float32(2),
    }
    ports = [[(name, TensorProto.FLOAT, ["n", 4])] for name in "xy"]
    return fakes.network(path, nodes, *ports, constants)


def configuration(folder: Path, depth: int = 20) -> Path:
    network(folder / "light.onnx", 64, 4)
    network(folder / "heavy.onnx", 1024, depth)
    (folder / "tokens").write_text(f"{TOKEN}\n")
    (folder / "serve.yaml").write_text(
        "token_file: tokens\n"
        "models:\n"
        "  light: {path: light.onnx, max_batch: 4}\n"
        "  single: {path: light.onnx, max_batch: 1}\n"
        "  heavy: {path: heavy.onnx, max_batch: 1}\n"
        "  stuck: {path: light.onnx, max_batch: 64, policy: fixed, delay: 1h, max_queue: 40}\n"
    )
    return folder / "serve.yaml"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    config = configuration(tmp_path_factory.mktemp("models"))
    with serving.serving("--config", config, grpc=True, metrics=True) as running:
        yield running
        assert running.stop() == 0


class Asker:
    """One keep-alive connection."""

    def __init__(self, server: Running) -> None:
        self.connection = http.client.HTTPConnection(server.address, timeout=END)

    def close(self) -> None:
        self.connection.close()

    def __call__(
        self, model: str, rows: np.ndarray, **parameters: Any
    ) -> tuple[int, dict[str, str], Any]:
        self.send(model, rows, **parameters)
        return self.receive()

    def receive(self) -> tuple[int, dict[str, str], Any]:
        response = self.connection.getresponse()
        headers = {name.lower(): value for name, value in response.getheaders()}
        return response.status, headers, json.loads(response.read())

    def send(self, model: str, rows: np.ndarray, **parameters: Any) -> None:
        body = {
            "inputs": [
                {"name": "x", "datatype": "FP32", "shape": rows.shape, "data": rows.tolist()}
            ],
            "parameters": parameters,
        }
        self.connection.request("POST", f"/v2/models/{model}/infer", json.dumps(body))


def once(
    server: Running, model: str, rows: np.ndarray, **parameters: Any
) -> tuple[int, dict[str, str], Any]:
    """One request on a connection of its own."""
    with contextlib.closing(Asker(server)) as ask:
        return ask(model, rows, **parameters)


def values(document: Any) -> np.ndarray:
    (output,) = document["outputs"]
    return np.array(output["data"], np.float32).reshape(output["shape"])


def statistics(server: Running, model: str) -> Any:
    connection = http.client.HTTPConnection(server.address, timeout=END)
    connection.request("GET", f"/v2/models/{model}/stats")
    (entry,) = json.loads(connection.getresponse().read())["model_stats"]
    connection.close()
    return entry


def metric(server: Running, name: str) -> float:
    connection = http.client.HTTPConnection(server.address_of("metrics"), timeout=END)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    (line,) = (it for it in text.splitlines() if it.startswith(name))
    return float(line.split()[-1])


def together(count: int, work: Callable[[int], Any]) -> list[Any]:
    """`work` of 0, 1 … at the same time, each on a thread of its own."""
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(work, range(count)))


def ask_many(server: Running, model: str, *, clients: int = 16, requests: int = 40) -> None:
    """Requests of 1 to 3 rows, each with its own values, over both fronts, and checked."""

    def rows_of(client: int, number: int) -> np.ndarray:
        rows = 1 if model == "single" else 1 + (client + number) % 3
        return np.full((rows, 4), client * 1000 + number, np.float32) + np.arange(4) / 8

    def over_http(client: int) -> None:
        with contextlib.closing(Asker(server)) as ask:
            for number in range(requests):
                rows = rows_of(client, number)
                status, _, found = ask(model, rows)
                assert status == 200, found
                np.testing.assert_array_equal(values(found), 2 * rows)

    def over_grpc(client: int) -> None:
        answers: queue.Queue[Any] = queue.Queue()
        with triton.InferenceServerClient(server.address_of("grpc")) as made:
            for number in range(requests):
                rows = rows_of(client, number)
                given = triton.InferInput("x", list(rows.shape), "FP32")
                given.set_data_from_numpy(rows.astype(np.float32))
                made.async_infer(
                    model,
                    [given],
                    callback=lambda result, error, rows=rows: answers.put((rows, result, error)),
                )
            for _ in range(requests):
                rows, result, error = answers.get(timeout=END)
                assert error is None, (error.status(), error.message())
                np.testing.assert_array_equal(result.as_numpy("y"), 2 * rows)

    together(clients, lambda client: (over_http if client % 2 else over_grpc)(client))


def test_mlserver_1306_answers_are_not_mixed_up_under_batching(server: Running) -> None:
    before = statistics(server, "light")
    ask_many(server, "light")
    with contextlib.ExitStack() as stack:
        asking = [stack.enter_context(contextlib.closing(Asker(server))) for _ in range(8)]
        for ask in asking:
            assert ask("light", ROW)[0] == 200
        with server.asleep():  # what is sent comes at once, however busy the machine is
            for number, ask in enumerate(asking):
                ask.send("light", ROW + number)
        for number, ask in enumerate(asking):
            status, _, found = ask.receive()
            assert status == 200
            np.testing.assert_array_equal(values(found), 2 * (ROW + number))
    after = statistics(server, "light")
    answered = after["inference_stats"]["success"]["count"]
    answered -= before["inference_stats"]["success"]["count"]
    assert answered == 16 * 40 + 2 * 8
    # There were batches to mix answers up in.
    assert after["execution_count"] - before["execution_count"] < answered


def test_bentoml_3710_and_3859_no_batch_is_larger_than_its_limit(server: Running) -> None:
    ask_many(server, "light", requests=20)
    sizes = [entry["batch_size"] for entry in statistics(server, "light")["batch_stats"]]
    assert max(sizes) <= 4
    # Rows count, not requests.
    assert (
        statistics(server, "light")["inference_count"]
        > (statistics(server, "light")["inference_stats"]["success"]["count"])
    )
    rows = np.arange(24, dtype=np.float32).reshape(6, 4)
    status, _, found = once(server, "light", rows)
    assert status == 400 and "4" in found["error"]


def test_bentoml_4856_a_largest_batch_of_one_works(server: Running) -> None:
    ask_many(server, "single", requests=20)
    sizes = [entry["batch_size"] for entry in statistics(server, "single")["batch_stats"]]
    assert sizes == [1]


def test_mlserver_886_and_ray_42593_no_hang_under_load_with_clients_that_leave(
    server: Running,
) -> None:
    body = json.dumps(
        {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]}
    ).encode()
    leaving = threading.Event()

    def leave() -> None:
        while not leaving.is_set():
            with contextlib.suppress(OSError):
                connection = socket.create_connection(("127.0.0.1", server.port), timeout=END)
                connection.sendall(serving.post("/v2/models/heavy/infer", body)[:-1])
                connection.sendall(body[-1:])
                connection.close()

    leavers = [threading.Thread(target=leave) for _ in range(4)]
    for thread in leavers:
        thread.start()
    try:
        ask_many(server, "light", clients=24, requests=20)
    finally:
        leaving.set()
        for thread in leavers:
            thread.join(END)
    # The requests of clients that left do not stay.
    wait_until(lambda: metric(server, PENDING % "heavy") == 0)
    for model in ("light", "heavy"):
        assert once(server, model, np.ones((1, 4), np.float32))[0] == 200


def test_mlserver_a_full_queue_sheds_and_does_not_block(server: Running) -> None:
    """What does not fit is refused at once: those before it are not answered for an hour."""
    with contextlib.ExitStack() as held:
        for number in range(40):
            waiting = held.enter_context(contextlib.closing(Asker(server)))
            waiting.send("stuck", ROW * number)
        wait_until(lambda: metric(server, PENDING % "stuck") == 40)
        for _ in range(20):
            status, headers, found = once(server, "stuck", ROW)
            assert status == 503
            assert int(headers["retry-after"]) >= 1
            assert "full" in found["error"]
        assert once(server, "light", ROW)[0] == 200
        assert metric(server, PENDING % "stuck") == 40
    wait_until(lambda: metric(server, PENDING % "stuck") == 0)


def test_litserve_423_timeouts_are_kept(server: Running) -> None:
    """What would wait for an hour is given up after 50 ms, and never computed."""
    status, _, found = once(server, "stuck", ROW, timeout=50_000)
    assert status == 408, found
    given = triton.InferInput("x", [1, 4], "FP32")
    given.set_data_from_numpy(ROW)
    with (
        triton.InferenceServerClient(server.address_of("grpc")) as client,
        pytest.raises(Exception, match="DEADLINE_EXCEEDED"),
    ):
        client.infer("stuck", [given], client_timeout=0.05)
    wait_until(lambda: metric(server, PENDING % "stuck") == 0)
    assert statistics(server, "stuck")["execution_count"] == 0


def test_triton_6230_a_model_is_never_unknown_while_it_is_replaced(server: Running) -> None:
    """Only "not now" may be said of a model that is on its way in or out, never "no such model"."""
    stop = threading.Event()
    said: list[tuple[str, str]] = []
    answered: list[int] = []

    def ask() -> None:
        with (
            contextlib.closing(Asker(server)) as made,
            triton.InferenceServerClient(server.address_of("grpc")) as client,
        ):
            while not stop.is_set():
                status, _, found = made("single", ROW)
                if status == 200:
                    answered.append(status)
                else:
                    said.append((str(status), found["error"]))
                given = triton.InferInput("x", [1, 4], "FP32")
                given.set_data_from_numpy(ROW)
                try:
                    client.infer("single", [given])
                except Exception as error:
                    said.append((str(error.status()), error.message()))

    def answered_more_than(least: int) -> Callable[[], bool]:
        return lambda: len(answered) > least

    askers = [threading.Thread(target=ask) for _ in range(2)]
    for thread in askers:
        thread.start()
    headers = {"authorization": f"Bearer {TOKEN}"}
    with triton.InferenceServerClient(server.address_of("grpc")) as admin:
        for _ in range(8):
            wait_until(answered_more_than(len(answered) + 4))
            admin.load_model("single", headers=headers)
        seen_while_reloading = list(said)
        admin.unload_model("single", headers=headers)
        admin.load_model("single", headers=headers)
    stop.set()
    for thread in askers:
        thread.join(END)
    assert not seen_while_reloading
    assert {code for code, _ in said} <= {"503", "StatusCode.UNAVAILABLE"}


def test_triton_4528_reloading_does_not_leak(server: Running) -> None:
    """Each copy of `heavy` is 4 MB, and the allocator keeps some of them for a while: resident
    memory moves up and down by several copies, but it must not go up.
    """
    headers = {"authorization": f"Bearer {TOKEN}"}
    resident = []
    with triton.InferenceServerClient(server.address_of("grpc")) as admin:
        for _ in range(30):
            admin.unload_model("heavy", headers=headers)
            admin.load_model("heavy", headers=headers)
            resident.append(metric(server, "process_resident_memory_bytes"))
    # Twenty copies kept would be 80 MB, half of all there is.
    assert min(resident[-10:]) < 1.05 * max(resident[:10])


def test_triton_6286_open_requests_are_answered_before_the_end(tmp_path: Path) -> None:
    with serving.serving(
        "--config", configuration(tmp_path, 100), grpc=True, metrics=True
    ) as running:
        outcomes: queue.Queue[Any] = queue.Queue()

        def over_http() -> None:
            try:
                outcomes.put(once(running, "heavy", ROW)[0])
            except OSError as error:
                outcomes.put(error)

        asking = [threading.Thread(target=over_http) for _ in range(15)]
        for thread in asking:
            thread.start()
        with triton.InferenceServerClient(running.address_of("grpc")) as client:
            for _ in range(15):
                given = triton.InferInput("x", [1, 4], "FP32")
                given.set_data_from_numpy(ROW)
                client.async_infer(
                    "heavy",
                    [given],
                    callback=lambda result, error: outcomes.put(200 if error is None else error),
                )
            wait_until(lambda: _taken(running) == 30)
            running.process.send_signal(signal.SIGTERM)
            found = [outcomes.get(timeout=END) for _ in range(30)]
        for thread in asking:
            thread.join(END)
        assert found == [200] * 30
        assert running.process.wait(END) == 0
        assert running.wait_for("stopped")["answered"] is True


def _taken(server: Running) -> float:
    """Requests that were answered, run or wait."""
    names = ("nv_inference_request_success", "strop_running_rows")
    counts = [metric(server, f'{name}{{model="heavy"') for name in names]
    return sum(counts) + metric(server, PENDING % "heavy")

"""Every call of tritonclient.grpc that applies, and the metrics, against a server process.

The calls of tritonclient.http are in test_tritonclient_http.py.
"""

from __future__ import annotations

import queue
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from . import serving
from .serving import Running

triton = pytest.importorskip("tritonclient.grpc")

from tritonclient.utils import InferenceServerException, np_to_triton_dtype  # noqa: E402

TOKEN = "admin-token-of-the-tests"
ADMIN = {"authorization": f"Bearer {TOKEN}"}
ROWS = np.arange(12, dtype=np.float32).reshape(3, 4) / 7


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("models")
    (folder / "tokens").write_text(f"{TOKEN}\n")
    versions = folder / "versions"
    for number, factor in ((1, 2.0), (2, 3.0)):
        (versions / str(number)).mkdir(parents=True)
        serving.affine(versions / str(number) / "model.onnx", factor=factor)
    with serving.serving(
        f"affine={serving.affine(folder / 'affine.onnx')}",
        f"text={serving.text(folder / 'text.onnx')}",
        f"two={serving.two_of_each(folder / 'two.onnx')}",
        f"versions={versions}",
        "--token-file",
        folder / "tokens",
        grpc=True,
        metrics=True,
    ) as running:
        yield running
        assert running.stop() == 0


@pytest.fixture
def client(server: Running) -> Iterator[Any]:
    with triton.InferenceServerClient(server.address_of("grpc")) as made:
        yield made


def tensor(name: str, array: np.ndarray) -> Any:
    made = triton.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
    made.set_data_from_numpy(array)
    return made


def test_health(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("affine")
    assert client.is_model_ready("versions", "2")
    assert not client.is_model_ready("versions", "9")


def test_metadata(client: Any) -> None:
    server = client.get_server_metadata()
    assert server.name == "strop" and server.version
    assert set(server.extensions) == {"model_configuration", "model_repository", "statistics"}
    model = client.get_model_metadata("affine", as_json=True)
    assert model["versions"] == ["1"]
    assert model["inputs"] == [{"name": "x", "datatype": "FP32", "shape": ["-1", "4"]}]
    assert model["outputs"] == [{"name": "y", "datatype": "FP32", "shape": ["-1", "4"]}]
    assert list(client.get_model_metadata("versions", "1").versions) == ["1", "2"]


def test_config(client: Any) -> None:
    config = client.get_model_config("affine").config
    assert config.name == "affine" and config.max_batch_size > 1
    assert config.backend == "onnxruntime"
    (x,) = config.input
    assert (x.name, list(x.dims)) == ("x", [4])
    assert client.get_model_config("two", as_json=True)["config"]["input"][0]["data_type"] == (
        "TYPE_INT32"
    )


def test_infer(client: Any) -> None:
    result = client.infer("affine", [tensor("x", ROWS)], request_id="mine")
    np.testing.assert_array_equal(result.as_numpy("y"), ROWS * 2)
    response = result.get_response()
    assert (response.id, response.model_name, response.model_version) == ("mine", "affine", "1")


def test_outputs_by_name_in_their_order(client: Any) -> None:
    a = np.arange(16, dtype=np.int32).reshape(1, 16)
    b = np.full((1, 16), 100, np.int32)
    inputs = [tensor("b", b), tensor("a", a)]
    outputs = [triton.InferRequestedOutput("q"), triton.InferRequestedOutput("p")]
    result = client.infer("two", inputs, outputs=outputs)
    np.testing.assert_array_equal(result.as_numpy("p"), a + b)
    np.testing.assert_array_equal(result.as_numpy("q"), a - b)
    assert [it.name for it in result.get_response().outputs] == ["q", "p"]
    only = client.infer("two", inputs, outputs=outputs[:1])
    assert only.as_numpy("p") is None


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_compressed(client: Any, coding: str) -> None:
    rows = np.tile(ROWS, (8, 1))
    result = client.infer("affine", [tensor("x", rows)], compression_algorithm=coding)
    np.testing.assert_array_equal(result.as_numpy("y"), rows * 2)


def test_strings(client: Any) -> None:
    words = np.array([["", "grüße"], ["a" * 5000, "日本"]], dtype=object)
    result = client.infer("text", [tensor("s", words)])
    assert [it.decode() for it in result.as_numpy("t").ravel()] == words.ravel().tolist()
    raw = np.array([[b"\xff\x00", b"\x80"]], dtype=object)
    # ONNX strings are UTF-8: bytes that are none would not come back as they were.
    with pytest.raises(InferenceServerException, match="UTF-8"):
        client.infer("text", [tensor("s", raw)])


def test_versions(client: Any) -> None:
    for version, factor in (("1", 2), ("2", 3), ("", 3)):
        result = client.infer("versions", [tensor("x", ROWS)], model_version=version)
        np.testing.assert_array_equal(result.as_numpy("y"), ROWS * np.float32(factor))
        assert result.get_response().model_version == (version or "2")


def test_parameters_and_deadlines_travel(client: Any) -> None:
    result = client.infer(
        "affine",
        [tensor("x", ROWS)],
        priority=1,
        timeout=5_000_000,
        client_timeout=10.0,
        parameters={"key": 7},
    )
    np.testing.assert_array_equal(result.as_numpy("y"), ROWS * 2)


def test_async_infer(client: Any) -> None:
    answers: queue.Queue[tuple[int, Any, Any]] = queue.Queue()
    for number in range(100):
        rows = np.full((1 + number % 3, 4), number, np.float32)
        client.async_infer(
            "affine",
            [tensor("x", rows)],
            callback=lambda result, error, number=number: answers.put((number, result, error)),
        )
    seen = set()
    for _ in range(100):
        number, result, error = answers.get(timeout=20)
        assert error is None
        seen.add(number)
        expected = np.full((1 + number % 3, 4), 2 * number, np.float32)
        np.testing.assert_array_equal(result.as_numpy("y"), expected)
    assert len(seen) == 100


def test_stream(client: Any) -> None:
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    client.start_stream(callback=lambda result, error: answers.put((result, error)))
    for number in range(50):
        rows = np.full((1, 3 if number == 20 else 4), number, np.float32)
        client.async_stream_infer("affine", [tensor("x", rows)], request_id=str(number))
    for number in range(50):
        result, error = answers.get(timeout=20)
        if number == 20:
            assert isinstance(error, InferenceServerException) and "float32" in str(error)
            continue
        assert error is None
        assert result.get_response().id == str(number)
        np.testing.assert_array_equal(result.as_numpy("y"), np.full((1, 4), 2 * number, np.float32))
    client.stop_stream()


def test_a_stream_that_asks_for_the_final_flag_gets_it(client: Any) -> None:
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    client.start_stream(callback=lambda result, error: answers.put((result, error)))
    client.async_stream_infer(
        "affine", [tensor("x", ROWS)], enable_empty_final_response=True, request_id="1"
    )
    result, error = answers.get(timeout=20)
    assert error is None
    assert result.get_response().parameters["triton_final_response"].bool_param
    client.stop_stream()


def test_statistics(client: Any) -> None:
    client.infer("affine", [tensor("x", ROWS)])
    (entry,) = client.get_inference_statistics("affine").model_stats
    assert (entry.name, entry.version) == ("affine", "1")
    assert entry.inference_count >= 3 and entry.execution_count >= 1
    assert entry.inference_stats.success.count >= 1 and entry.inference_stats.queue.count >= 1
    assert entry.batch_stats
    names = {it.name for it in client.get_inference_statistics().model_stats}
    assert names == {"affine", "text", "two", "versions"}


@pytest.mark.parametrize(
    ("model", "version", "rows", "code", "words"),
    [
        ("absent", "", ROWS, "NOT_FOUND", "no model 'absent'"),
        ("affine", "7", ROWS, "NOT_FOUND", "no version '7'"),
        ("affine", "", ROWS.astype(np.float64), "INVALID_ARGUMENT", "float64"),
        ("affine", "", ROWS[:, :2].copy(), "INVALID_ARGUMENT", "float32"),
        ("../affine", "", ROWS, "NOT_FOUND", "no model"),
    ],
)
def test_errors(
    client: Any, model: str, version: str, rows: np.ndarray, code: str, words: str
) -> None:
    with pytest.raises(InferenceServerException, match=words) as caught:
        client.infer(model, [tensor("x", rows)], model_version=version)
    assert caught.value.status() == f"StatusCode.{code}"


def test_repository(client: Any) -> None:
    index = client.get_model_repository_index().models
    assert {(it.name, it.version): it.state for it in index}["versions", "2"] == "READY"
    for call in (client.unload_model, client.load_model):
        for headers in (None, {"authorization": "Bearer wrong-token"}):
            with pytest.raises(InferenceServerException) as caught:
                call("text", headers=headers)
            assert caught.value.status() == "StatusCode.UNAUTHENTICATED"
    client.unload_model("text", headers=ADMIN)
    assert not client.is_model_ready("text")
    words = np.array([["a", "b"]], dtype=object)
    with pytest.raises(InferenceServerException) as caught:
        client.infer("text", [tensor("s", words)])
    assert caught.value.status() == "StatusCode.UNAVAILABLE"
    client.load_model("text", headers=ADMIN)
    assert client.is_model_ready("text")
    assert client.infer("text", [tensor("s", words)]).as_numpy("t").shape == (1, 2)
    with pytest.raises(InferenceServerException) as caught:
        client.load_model("absent", headers=ADMIN)
    assert caught.value.status() == "StatusCode.NOT_FOUND"


def test_what_is_not_offered_says_so(client: Any) -> None:
    for call in (
        client.get_system_shared_memory_status,
        client.get_cuda_shared_memory_status,
        client.get_trace_settings,
        client.get_log_settings,
    ):
        with pytest.raises(InferenceServerException) as caught:
            call()
        assert caught.value.status() == "StatusCode.UNIMPLEMENTED"


def test_the_aio_client(server: Running) -> None:
    import asyncio

    aio = pytest.importorskip("tritonclient.grpc.aio")

    async def main() -> None:
        async with aio.InferenceServerClient(server.address_of("grpc")) as own:
            assert await own.is_server_ready()
            results = await asyncio.gather(
                *(
                    own.infer("affine", [tensor("x", np.full((1, 4), number, np.float32))])
                    for number in range(20)
                )
            )
            for number, result in enumerate(results):
                assert (result.as_numpy("y") == 2 * number).all()

    asyncio.run(main())


def test_metrics(server: Running, client: Any) -> None:
    client.infer("affine", [tensor("x", ROWS)])
    url = f"http://{server.address_of('metrics')}/metrics"
    with urllib.request.urlopen(url, timeout=10) as response:
        assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        text = response.read().decode()
    labels = '{model="affine",version="1"}'
    (line,) = (it for it in text.splitlines() if it.startswith(f"nv_inference_count{labels}"))
    assert int(line.split()[-1]) >= 3


def test_both_fronts_answer_alike(server: Running, client: Any, tmp_path: Path) -> None:
    http = pytest.importorskip("tritonclient.http")
    rows = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
    made = http.InferInput("x", [5, 4], "FP32")
    made.set_data_from_numpy(rows)
    with http.InferenceServerClient(server.address) as other:
        theirs = other.infer("affine", [made]).as_numpy("y")
    ours = client.infer("affine", [tensor("x", rows)]).as_numpy("y")
    assert ours.tobytes() == theirs.tobytes()

"""What both of tritonclient's clients can ask, asked of a server process over both fronts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from .serving import Running
from .triton import ADMIN, ROWS, Front, Grpc, Http

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
failure = pytest.importorskip("tritonclient.utils").InferenceServerException


@pytest.fixture(params=[Http, Grpc], ids=["http", "grpc"])
def front(request: pytest.FixtureRequest, protocol_server: Running) -> Iterator[Front]:
    made: Front = request.param(protocol_server)
    yield made
    made.client.close()


def test_health(front: Front) -> None:
    client = front.client
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("affine")
    assert client.is_model_ready("versions", "2")
    assert not client.is_model_ready("versions", "9")


def test_metadata(front: Front) -> None:
    server = front._plain(front.client.get_server_metadata())
    assert server["name"] == "strop" and server["version"]
    offered = {"model_configuration", "model_repository", "statistics"}
    assert set(server["extensions"]) - {"binary_tensor_data"} >= offered
    model = front.metadata("affine")
    assert (model["name"], model["versions"]) == ("affine", ["1"])
    assert model["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]
    assert model["outputs"] == [{"name": "y", "datatype": "FP32", "shape": [-1, 4]}]
    assert front.metadata("versions", "1")["versions"] == ["1", "2"]


def test_config(front: Front) -> None:
    config = front.config("affine")
    assert config["name"] == "affine" and config["max_batch_size"] > 1
    assert config["backend"] == "onnxruntime"
    assert [(it["name"], [*map(int, it["dims"])]) for it in config["input"]] == [("x", [4])]
    assert [it["data_type"] for it in front.config("two")["input"]] == ["TYPE_INT32"] * 2


def test_infer(front: Front) -> None:
    result = front.infer(request_id="mine")
    np.testing.assert_array_equal(result.as_numpy("y"), ROWS * 2)
    found = front.described(result)
    assert (found["id"], found["model_name"], found["model_version"]) == ("mine", "affine", "1")


def test_outputs_by_name_in_their_order(front: Front) -> None:
    a = np.arange(16, dtype=np.int32).reshape(1, 16)
    b = np.full((1, 16), -(2**31) + 1, np.int32)
    inputs = [front.tensor("b", b), front.tensor("a", a)]
    result = front.client.infer("two", inputs, outputs=front.wanted("q", "p"))
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(result.as_numpy("p"), a + b)
        np.testing.assert_array_equal(result.as_numpy("q"), a - b)
    assert [it["name"] for it in front.described(result)["outputs"]] == ["q", "p"]
    only = front.client.infer("two", inputs, outputs=front.wanted("q"))
    assert only.as_numpy("p") is None


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_compressed_both_ways(front: Front, coding: str) -> None:
    rows = np.tile(ROWS, (8, 1))
    if front.name == "http":
        options: dict[str, Any] = {
            "request_compression_algorithm": coding,
            "response_compression_algorithm": coding,
        }
    else:
        options = {"compression_algorithm": coding, "headers": {"accept-encoding": coding}}
    np.testing.assert_array_equal(front.infer(rows, **options).as_numpy("y"), rows * 2)


def test_strings(front: Front) -> None:
    words = np.array([["", "grüße"], ["a" * 5000, "日本"]], dtype=object)
    result = front.client.infer("text", [front.tensor("s", words)])
    assert [it.decode() for it in result.as_numpy("t").ravel()] == words.ravel().tolist()
    raw = np.array([[b"\xff\x00", b"\x80"]], dtype=object)
    # ONNX strings are UTF-8: bytes that are none would not come back as they were.
    with pytest.raises(failure, match="UTF-8"):
        front.client.infer("text", [front.tensor("s", raw)])


def test_versions(front: Front) -> None:
    for version, factor in (("1", 2), ("2", 3), ("", 3)):
        result = front.infer(model="versions", model_version=version)
        np.testing.assert_array_equal(result.as_numpy("y"), ROWS * np.float32(factor))
        assert front.described(result)["model_version"] == (version or "2")


def test_parameters_and_deadlines_travel(front: Front) -> None:
    result = front.infer(priority=1, timeout=60_000_000, parameters={"key": 7})
    np.testing.assert_array_equal(result.as_numpy("y"), ROWS * 2)


def test_statistics(front: Front) -> None:
    front.infer()
    (entry,) = front.statistics("affine")
    assert (entry["name"], entry["version"]) == ("affine", "1")
    assert int(entry["inference_count"]) >= 3 and int(entry["execution_count"]) >= 1
    assert int(entry["inference_stats"]["success"]["count"]) >= 1
    assert int(entry["inference_stats"]["queue"]["count"]) >= 1
    assert entry["batch_stats"]
    assert {it["name"] for it in front.statistics()} == {"affine", "text", "two", "versions"}


@pytest.mark.parametrize(
    ("model", "version", "rows", "code", "words"),
    [
        ("absent", "", ROWS, "NOT_FOUND", "no model 'absent'"),
        ("affine", "7", ROWS, "NOT_FOUND", "no version '7'"),
        ("affine", "", ROWS.astype(np.float64), "INVALID_ARGUMENT", "float64"),
        ("affine", "", ROWS[:, :2].copy(), "INVALID_ARGUMENT", "float32"),
    ],
)
def test_errors(
    front: Front, model: str, version: str, rows: np.ndarray, code: str, words: str
) -> None:
    with pytest.raises(failure, match=words) as caught:
        front.infer(rows, model, model_version=version)
    assert front.code(caught.value) == code


def test_an_output_that_is_not_there(front: Front) -> None:
    with pytest.raises(failure, match="no output 'z'") as caught:
        front.infer(outputs=front.wanted("z"))
    assert front.code(caught.value) == "INVALID_ARGUMENT"


def test_repository(front: Front) -> None:
    client = front.client
    assert front.listed()["versions", "2"] == "READY"
    for call in (client.unload_model, client.load_model):
        for headers in (None, {"authorization": "Bearer wrong-token"}):
            with pytest.raises(failure) as caught:
                call("text", headers=headers)
            assert front.code(caught.value) == "UNAUTHENTICATED"
    client.unload_model("text", headers=ADMIN)
    assert not client.is_model_ready("text")
    words = front.tensor("s", np.array([["a", "b"]], dtype=object))
    with pytest.raises(failure) as caught:
        client.infer("text", [words])
    assert front.code(caught.value) == "UNAVAILABLE"
    client.load_model("text", headers=ADMIN)
    assert client.is_model_ready("text")
    assert client.infer("text", [words]).as_numpy("t").shape == (1, 2)
    with pytest.raises(failure) as caught:
        client.load_model("absent", headers=ADMIN)
    assert front.code(caught.value) == "NOT_FOUND"


def test_what_is_not_offered_says_so(front: Front) -> None:
    for call in (
        front.client.get_system_shared_memory_status,
        front.client.get_cuda_shared_memory_status,
        front.client.get_trace_settings,
        front.client.get_log_settings,
    ):
        with pytest.raises(failure) as caught:
            call()
        assert front.code(caught.value) == "UNIMPLEMENTED"


def test_both_fronts_answer_alike(protocol_server: Running) -> None:
    rows = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
    answers = []
    for kind in (Http, Grpc):
        made = kind(protocol_server)
        answers.append(made.infer(rows).as_numpy("y").tobytes())
        made.client.close()
    assert answers[0] == answers[1]

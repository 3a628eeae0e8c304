"""Every call of tritonclient.http that applies, against a server in another process."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from . import serving
from .serving import Running

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

TOKEN = "admin-token-of-the-tests"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("models")
    (folder / "tokens").write_text(f"# admins\n{TOKEN}\n")
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
    ) as running:
        yield running


@pytest.fixture
def client(server: Running) -> Iterator[Any]:
    http = pytest.importorskip("tritonclient.http")
    made = http.InferenceServerClient(server.address, concurrency=4)
    yield made
    made.close()


@pytest.fixture
def http() -> Any:
    return pytest.importorskip("tritonclient.http")


def tensor(http: Any, name: str, array: np.ndarray, *, binary: bool = True) -> Any:
    from tritonclient.utils import np_to_triton_dtype

    made = http.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
    made.set_data_from_numpy(array, binary_data=binary)
    return made


ROWS = np.arange(12, dtype=np.float32).reshape(3, 4) / 7


def test_health(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("affine")
    assert client.is_model_ready("versions", "2")
    assert not client.is_model_ready("versions", "9")
    assert not client.is_model_ready("absent")


def test_metadata(client: Any) -> None:
    server = client.get_server_metadata()
    assert server["name"] == "strop"
    assert "binary_tensor_data" in server["extensions"]
    model = client.get_model_metadata("affine")
    assert model["name"] == "affine"
    assert model["versions"] == ["1"]
    assert model["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]
    assert model["outputs"] == [{"name": "y", "datatype": "FP32", "shape": [-1, 4]}]
    assert client.get_model_metadata("versions", "1")["versions"] == ["1", "2"]


def test_config(client: Any) -> None:
    config = client.get_model_config("two")
    assert config["name"] == "two"
    assert [entry["data_type"] for entry in config["input"]] == ["TYPE_INT32", "TYPE_INT32"]


@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("wanted", [True, False, None])
def test_infer(client: Any, http: Any, given: bool, wanted: bool | None) -> None:
    outputs = None if wanted is None else [http.InferRequestedOutput("y", binary_data=wanted)]
    result = client.infer(
        "affine", [tensor(http, "x", ROWS, binary=given)], outputs=outputs, request_id="mine"
    )
    np.testing.assert_array_equal(result.as_numpy("y"), ROWS * 2)
    response = result.get_response()
    assert (response["model_name"], response["model_version"]) == ("affine", "1")
    assert response["id"] == "mine"
    assert ("data" in result.get_output("y")) is (wanted is False)


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_compressed(client: Any, http: Any, coding: str) -> None:
    rows = np.tile(ROWS, (8, 1))
    result = client.infer(
        "affine",
        [tensor(http, "x", rows)],
        request_compression_algorithm=coding,
        response_compression_algorithm=coding,
    )
    np.testing.assert_array_equal(result.as_numpy("y"), rows * 2)


def test_compressed_beyond_what_the_loop_does_itself(client: Any, http: Any) -> None:
    noise = np.random.default_rng(0).standard_normal((32, 4)).astype(np.float32)
    for size in (1, 32):
        result = client.infer(
            "affine",
            [tensor(http, "x", noise[:size], binary=False)],
            request_compression_algorithm="gzip",
            response_compression_algorithm="deflate",
        )
        np.testing.assert_array_equal(result.as_numpy("y"), noise[:size] * 2)


@pytest.mark.parametrize("given", [True, False])
def test_strings(client: Any, http: Any, given: bool) -> None:
    words = np.array([["", "grüße"], ["a" * 5000, "日本"]], dtype=object)
    result = client.infer("text", [tensor(http, "s", words, binary=given)])
    assert [it.decode() for it in result.as_numpy("t").ravel()] == words.ravel().tolist()
    as_json = client.infer(
        "text",
        [tensor(http, "s", words, binary=given)],
        outputs=[http.InferRequestedOutput("t", binary_data=False)],
    )
    assert as_json.get_output("t")["data"] == words.ravel().tolist()


def test_several_inputs_and_outputs_named_in_another_order(client: Any, http: Any) -> None:
    a = np.arange(16, dtype=np.int32).reshape(1, 16)
    b = np.full((1, 16), -(2**31) + 1, np.int32)
    inputs = [tensor(http, "b", b, binary=False), tensor(http, "a", a)]
    outputs = [
        http.InferRequestedOutput("q", binary_data=True),
        http.InferRequestedOutput("p", binary_data=False),
    ]
    result = client.infer("two", inputs, outputs=outputs)
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(result.as_numpy("p"), a + b)
        np.testing.assert_array_equal(result.as_numpy("q"), a - b)
    assert [it["name"] for it in result.get_response()["outputs"]] == ["q", "p"]
    only = client.infer("two", inputs, outputs=[http.InferRequestedOutput("p")])
    assert only.as_numpy("q") is None


def test_versions(client: Any, http: Any) -> None:
    for version, factor in (("1", 2), ("2", 3), ("", 3)):
        result = client.infer("versions", [tensor(http, "x", ROWS)], model_version=version)
        np.testing.assert_array_equal(result.as_numpy("y"), ROWS * np.float32(factor))
        assert result.get_response()["model_version"] == (version or "2")


def test_parameters_travel(client: Any, http: Any) -> None:
    result = client.infer(
        "affine", [tensor(http, "x", ROWS)], priority=1, timeout=5_000_000, parameters={"key": 7}
    )
    np.testing.assert_array_equal(result.as_numpy("y"), ROWS * 2)


def test_many_at_once_each_gets_its_own(client: Any, http: Any) -> None:
    pending = []
    for number in range(200):
        rows = np.full((1 + number % 3, 4), number, np.float32)
        pending.append((rows, client.async_infer("affine", [tensor(http, "x", rows)])))
    for rows, request in pending:
        np.testing.assert_array_equal(request.get_result().as_numpy("y"), rows * 2)


def test_statistics(client: Any, http: Any) -> None:
    client.infer("affine", [tensor(http, "x", ROWS)])
    (entry,) = client.get_inference_statistics("affine")["model_stats"]
    assert entry["inference_count"] >= 3
    assert entry["inference_stats"]["success"]["count"] >= 1
    names = {it["name"] for it in client.get_inference_statistics()["model_stats"]}
    assert names == {"affine", "text", "two", "versions"}


def test_errors(client: Any, http: Any) -> None:
    from tritonclient.utils import InferenceServerException

    with pytest.raises(InferenceServerException, match="no model 'absent'") as caught:
        client.infer("absent", [tensor(http, "x", ROWS)])
    assert caught.value.status() == "404"
    with pytest.raises(InferenceServerException, match="no version '7'"):
        client.infer("affine", [tensor(http, "x", ROWS)], model_version="7")
    with pytest.raises(InferenceServerException, match="float64"):
        client.infer("affine", [tensor(http, "x", ROWS.astype(np.float64))])
    with pytest.raises(InferenceServerException, match="float32"):
        client.infer("affine", [tensor(http, "x", ROWS[:, :2])])
    with pytest.raises(InferenceServerException, match="no output 'z'"):
        client.infer("affine", [tensor(http, "x", ROWS)], outputs=[http.InferRequestedOutput("z")])


def test_repository(client: Any, http: Any) -> None:
    from tritonclient.utils import InferenceServerException

    listed = {
        (it["name"], it["version"]): it["state"] for it in client.get_model_repository_index()
    }
    assert listed["versions", "2"] == "READY"
    for call in (client.unload_model, client.load_model):
        with pytest.raises(InferenceServerException) as caught:
            call("text")
        assert caught.value.status() == "401"
        with pytest.raises(InferenceServerException) as caught:
            call("text", headers={"Authorization": "Bearer wrong-token"})
        assert caught.value.status() == "401"
    admin = {"Authorization": f"Bearer {TOKEN}"}
    client.unload_model("text", headers=admin)
    assert not client.is_model_ready("text")
    words = np.array([["a", "b"]], dtype=object)
    with pytest.raises(InferenceServerException) as caught:
        client.infer("text", [tensor(http, "s", words)])
    assert caught.value.status() == "503"
    client.load_model("text", headers=admin)
    assert client.is_model_ready("text")
    assert client.infer("text", [tensor(http, "s", words)]).as_numpy("t").shape == (1, 2)
    with pytest.raises(InferenceServerException) as caught:
        client.load_model("absent", headers=admin)
    assert caught.value.status() == "404"


def test_what_is_not_offered_says_so(client: Any) -> None:
    from tritonclient.utils import InferenceServerException

    for call in (
        client.get_system_shared_memory_status,
        client.get_cuda_shared_memory_status,
        client.get_trace_settings,
        client.get_log_settings,
    ):
        with pytest.raises(InferenceServerException) as caught:
            call()
        assert caught.value.status() == "501"


def test_a_raw_body(server: Running) -> None:
    body = ROWS.tobytes()
    data = server.talk(
        serving.post(
            "/v2/models/affine/infer",
            body,
            "Inference-Header-Content-Length: 0",
            "Connection: close",
        )
    )
    ((status, headers, content),) = serving.parse_responses(data)
    assert status == 200
    length = int(headers["inference-header-content-length"])
    (output,) = json.loads(content[:length])["outputs"]
    assert output["shape"] == [3, 4]
    np.testing.assert_array_equal(
        np.frombuffer(content[length:], np.float32).reshape(3, 4), ROWS * 2
    )


def test_reloads_are_never_seen_by_clients(server: Running, http: Any) -> None:
    stop, failures, answered = threading.Event(), [], [0]

    def ask() -> None:
        with http.InferenceServerClient(server.address) as own:
            while not stop.is_set():
                try:
                    result = own.infer("affine", [tensor(http, "x", ROWS)])
                    np.testing.assert_array_equal(result.as_numpy("y"), ROWS * 2)
                    answered[0] += 1
                except Exception as error:
                    failures.append(error)
                    return

    asking = threading.Thread(target=ask)
    asking.start()
    with http.InferenceServerClient(server.address) as admin:
        for _ in range(5):
            admin.load_model("affine", headers={"Authorization": f"Bearer {TOKEN}"})
    stop.set()
    asking.join(30)
    assert not failures
    assert answered[0] > 5


def test_curl(server: Running, tmp_path: Path) -> None:
    import shutil
    import subprocess

    if shutil.which("curl") is None:
        pytest.skip("there is no curl here")
    url = f"http://{server.address}/v2/models/affine/infer"
    document = {
        "inputs": [{"name": "x", "shape": [3, 4], "datatype": "FP32", "data": ROWS.tolist()}]
    }
    (tmp_path / "body").write_text(json.dumps(document))
    for options in (
        [],
        ["-H", "Transfer-Encoding: chunked"],
        ["-H", "Expect: 100-continue"],
        ["-H", "Content-Type: text/nonsense"],
        ["--compressed"],
        ["--http1.0"],
        ["--http2"],
    ):
        said = subprocess.run(
            ["curl", "-sS", *options, "--data-binary", f"@{tmp_path / 'body'}", url],
            capture_output=True,
            timeout=20,
            check=True,
        )
        (output,) = json.loads(said.stdout)["outputs"]
        np.testing.assert_array_equal(np.array(output["data"], np.float32).reshape(3, 4), ROWS * 2)

"""What only tritonclient.http has: tensors as JSON, raw bodies, and curl beside it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from . import serving
from .serving import Running
from .triton import ROWS, Http
from .waiting import END

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def front(protocol_server: Running) -> Iterator[Http]:
    made = Http(protocol_server)
    yield made
    made.client.close()


@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("wanted", [True, False, None])
def test_infer(front: Http, given: bool, wanted: bool | None) -> None:
    outputs = (
        None if wanted is None else [front.module.InferRequestedOutput("y", binary_data=wanted)]
    )
    result = front.client.infer(
        "affine", [front.tensor("x", ROWS, binary_data=given)], outputs=outputs, request_id="mine"
    )
    np.testing.assert_array_equal(result.as_numpy("y"), ROWS * 2)
    response = result.get_response()
    assert (response["model_name"], response["model_version"]) == ("affine", "1")
    assert response["id"] == "mine"
    assert ("data" in result.get_output("y")) is (wanted is False)


def test_compressed_beyond_what_the_loop_does_itself(front: Http) -> None:
    noise = np.random.default_rng(0).standard_normal((32, 4)).astype(np.float32)
    for size in (1, 32):
        result = front.client.infer(
            "affine",
            [front.tensor("x", noise[:size], binary_data=False)],
            request_compression_algorithm="gzip",
            response_compression_algorithm="deflate",
        )
        np.testing.assert_array_equal(result.as_numpy("y"), noise[:size] * 2)


@pytest.mark.parametrize("given", [True, False])
def test_strings(front: Http, given: bool) -> None:
    words = np.array([["", "grüße"], ["a" * 5000, "日本"]], dtype=object)
    result = front.client.infer("text", [front.tensor("s", words, binary_data=given)])
    assert [it.decode() for it in result.as_numpy("t").ravel()] == words.ravel().tolist()
    as_json = front.client.infer(
        "text",
        [front.tensor("s", words, binary_data=given)],
        outputs=[front.module.InferRequestedOutput("t", binary_data=False)],
    )
    assert as_json.get_output("t")["data"] == words.ravel().tolist()


def test_many_at_once_each_gets_its_own(front: Http) -> None:
    pending = []
    for number in range(200):
        rows = np.full((1 + number % 3, 4), number, np.float32)
        pending.append((rows, front.client.async_infer("affine", [front.tensor("x", rows)])))
    for rows, request in pending:
        np.testing.assert_array_equal(request.get_result().as_numpy("y"), rows * 2)


def test_the_aio_client(protocol_server: Running, front: Http) -> None:
    import asyncio

    aio = pytest.importorskip("tritonclient.http.aio")

    async def main() -> None:
        async with aio.InferenceServerClient(protocol_server.address) as own:
            assert await own.is_server_live() and await own.is_server_ready()
            assert await own.is_model_ready("affine")
            assert (await own.get_model_metadata("affine"))["versions"] == ["1"]
            assert (await own.get_model_config("affine"))["backend"] == "onnxruntime"
            assert len(await own.get_model_repository_index()) == 5
            (entry,) = (await own.get_inference_statistics("affine"))["model_stats"]
            assert entry["name"] == "affine"
            results = await asyncio.gather(
                *(
                    own.infer("affine", [front.tensor("x", np.full((1, 4), number, np.float32))])
                    for number in range(20)
                )
            )
            for number, result in enumerate(results):
                assert (result.as_numpy("y") == 2 * number).all()

    asyncio.run(main())


def test_a_raw_body(protocol_server: Running) -> None:
    body = ROWS.tobytes()
    data = protocol_server.talk(
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


def test_curl(protocol_server: Running, tmp_path: Path) -> None:
    import shutil
    import subprocess

    if shutil.which("curl") is None:
        pytest.skip("there is no curl here")
    url = f"http://{protocol_server.address}/v2/models/affine/infer"
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
            timeout=END,
            check=True,
        )
        (output,) = json.loads(said.stdout)["outputs"]
        np.testing.assert_array_equal(np.array(output["data"], np.float32).reshape(3, 4), ROWS * 2)

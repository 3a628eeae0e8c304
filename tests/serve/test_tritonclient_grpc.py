"""What only tritonclient.grpc has: callbacks, streams, its own asyncio; and the metrics port."""

from __future__ import annotations

import queue
import urllib.request
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from .serving import Running
from .triton import ROWS, Grpc
from .waiting import END

failure = pytest.importorskip("tritonclient.utils").InferenceServerException


@pytest.fixture
def front(protocol_server: Running) -> Iterator[Grpc]:
    made = Grpc(protocol_server)
    yield made
    made.client.close()


def test_async_infer(front: Grpc) -> None:
    answers: queue.Queue[tuple[int, Any, Any]] = queue.Queue()
    for number in range(100):
        rows = np.full((1 + number % 3, 4), number, np.float32)
        front.client.async_infer(
            "affine",
            [front.tensor("x", rows)],
            callback=lambda result, error, number=number: answers.put((number, result, error)),
        )
    seen = set()
    for _ in range(100):
        number, result, error = answers.get(timeout=END)
        assert error is None
        seen.add(number)
        expected = np.full((1 + number % 3, 4), 2 * number, np.float32)
        np.testing.assert_array_equal(result.as_numpy("y"), expected)
    assert len(seen) == 100


def test_stream(front: Grpc) -> None:
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    front.client.start_stream(callback=lambda result, error: answers.put((result, error)))
    for number in range(50):
        rows = np.full((1, 3 if number == 20 else 4), number, np.float32)
        front.client.async_stream_infer("affine", [front.tensor("x", rows)], request_id=str(number))
    for number in range(50):
        result, error = answers.get(timeout=END)
        if number == 20:
            assert isinstance(error, failure) and "float32" in str(error)
            continue
        assert error is None
        assert result.get_response().id == str(number)
        np.testing.assert_array_equal(result.as_numpy("y"), np.full((1, 4), 2 * number, np.float32))
    front.client.stop_stream()


def test_a_stream_that_asks_for_the_final_flag_gets_it(front: Grpc) -> None:
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    front.client.start_stream(callback=lambda result, error: answers.put((result, error)))
    front.client.async_stream_infer(
        "affine", [front.tensor("x", ROWS)], enable_empty_final_response=True, request_id="1"
    )
    result, error = answers.get(timeout=END)
    assert error is None
    assert result.get_response().parameters["triton_final_response"].bool_param
    front.client.stop_stream()


def test_the_aio_client(protocol_server: Running, front: Grpc) -> None:
    import asyncio

    aio = pytest.importorskip("tritonclient.grpc.aio")

    async def main() -> None:
        async with aio.InferenceServerClient(protocol_server.address_of("grpc")) as own:
            assert await own.is_server_ready()
            results = await asyncio.gather(
                *(
                    own.infer("affine", [front.tensor("x", np.full((1, 4), number, np.float32))])
                    for number in range(20)
                )
            )
            for number, result in enumerate(results):
                assert (result.as_numpy("y") == 2 * number).all()

    asyncio.run(main())


def test_metrics(protocol_server: Running, front: Grpc) -> None:
    front.client.infer("affine", [front.tensor("x", ROWS)])
    url = f"http://{protocol_server.address_of('metrics')}/metrics"
    with urllib.request.urlopen(url, timeout=END) as response:
        assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        text = response.read().decode()
    labels = '{model="affine",version="1"}'
    (line,) = (it for it in text.splitlines() if it.startswith(f"nv_inference_count{labels}"))
    assert int(line.split()[-1]) >= 3

"""What the HTTP side of an inference does before and after the core."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import pytest

from strop.serve.codec import Limits
from strop.serve.inference import Inference, _coding
from tests.serve import serving
from tests.serve.serving import parse_responses, post


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [
        (b"gzip", b"gzip"),
        (b"deflate, gzip", b"deflate"),
        (b"gzip;q=0.5, deflate;q=0.8", b"deflate"),
        (b"GZIP ; q=1.0 , br", b"gzip"),
        (b"gzip;q=0, deflate;q=0.000", b""),
        (b"gzip;q=0.00,deflate;q=0.001", b"deflate"),
        (b"gzip;q=high", b""),
        (b"gzip;q=nan", b""),
        (b"identity, br", b""),
        (b"", b""),
    ],
)
def test_the_coding_that_the_client_likes_best(accepted: bytes, coding: bytes) -> None:
    assert _coding(accepted) == coding


def test_what_clients_say_every_time_is_read_once() -> None:
    _coding.cache_clear()
    for _ in range(3):
        _coding(b"gzip, deflate")
    assert (_coding.cache_info().misses, _coding.cache_info().hits) == (1, 2)


def test_a_small_body_that_grows_large_is_not_decompressed_on_the_loop() -> None:
    core: Any = None
    later: Any = None
    inference = Inference(core, Limits(), later)
    for size, at_once in ((100, True), (1 << 20, True), ((1 << 20) + 1, False), (64 << 20, False)):
        sent = zlib.compress(bytes(size))
        assert len(sent) < 128 << 10
        found = inference._decompressed(sent, b"deflate")
        assert found == (bytes(size) if at_once else None)


def test_what_is_refused_before_it_reaches_a_model_is_counted(tmp_path: Path) -> None:
    model = serving.affine(tmp_path / "wide.onnx", width=1 << 20)
    row = bytes(4 << 20)
    text = json.dumps(
        {
            "inputs": [
                {
                    "name": "x",
                    "datatype": "FP32",
                    "shape": [1, 1 << 20],
                    "parameters": {"binary_data_size": len(row)},
                }
            ]
        }
    ).encode()
    close, path = "Connection: close", "/v2/models/wide/infer"
    with serving.serving(model, "--max-batch", "1") as server:

        def status(*request: Any) -> int:
            return parse_responses(server.talk(post(*request)))[0][0]

        packed = zlib.compress(text + row)
        header = f"Inference-Header-Content-Length: {len(text)}"
        assert status(path, packed, "Content-Encoding: deflate", header, close) == 200
        assert status(path, b"{}", close) == 400
        assert status(path, b"x", "Content-Encoding: gzip", close) == 400
        assert status(path, packed[:-9], "Content-Encoding: deflate", header, close) == 400
        assert status("/v2/models/other/infer", bytes(70_000), close) == 404
        get = b"GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        ((_, _, metrics),) = parse_responses(server.talk(get))
    for reason, count in (("invalid", 3), ("unknown", 1)):
        line = f'strop_rejections_total{{model="",version="",reason="{reason}"}} {count}\n'
        assert line.encode() in metrics

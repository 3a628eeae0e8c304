"""A million requests of random shapes: does every answer belong to its question?"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import generator
import networks
import numpy as np
import requests_of
import servers
from pinned import Bench, on

CONNECTIONS = 256
_PATH = "/v2/models/telltale/infer"
_POOL = 20_000
_ROWS, _LENGTHS = 4, 24
_JSON_SHARE = 0.1


def measure(bench: Bench, count: int) -> dict[str, Any]:
    """Ask `count` times; every request has an id, a shape and values of its own."""
    model = networks.telltale(bench.work / "telltale.onnx")
    ready = requests_of.as_json(_PATH, {"x": np.ones((1, 3), np.float32)})
    server = servers.strop({"telltale": model}, ready, cpu=bench.serve, work=bench.work)
    with server, on(bench.load) as load:
        found = load.submit(check, server.port, model, count).result()
        stats: Any = server.json("/v2/models/telltale/stats")
    entry = stats["model_stats"][0]
    found["rows_per_batch"] = entry["inference_count"] / entry["execution_count"]
    found["largest_batch"] = max(it["batch_size"] for it in entry["batch_stats"])
    right = not found["wrong"] and not found["failed"] and found["right"] == count
    return {**found, "connections": CONNECTIONS, "met": {"right": right}}


def check(port: int, model: Path, count: int) -> dict[str, Any]:
    """Ask, and hold every answer against what the session says alone, byte for byte."""
    from strop.serve.model import open_model
    from strop.serve.settings import ModelSettings

    settings = ModelSettings(model, workers=1, threads=1)
    session = open_model("telltale", "1", model, settings).session
    random = np.random.default_rng(int(time.time()))
    client = generator.Client(port, CONNECTIONS)
    right = asked = wrong = failed = 0
    examples: list[str] = []
    busy = 0.0
    while asked < count:
        size = min(_POOL, count - asked)
        pool = [_question(session, random, asked + number) for number in range(size)]
        asked += size
        begin = time.perf_counter()
        following = iter(range(size))
        open_ = 0
        for link, number in zip(client.links, following, strict=False):
            link.tag = number
            client.ask(link, pool[number][0])
            open_ += 1
        while open_:
            answers = client.poll(1.0)
            if not answers and time.perf_counter() - begin > 300:
                raise RuntimeError(f"{open_} requests are not answered")
            for link, status, data in answers:
                _, tail, marks = pool[link.tag]
                if status != 200:
                    failed += 1
                    examples.append(f"status {status}: {data[-200:]!r}")
                elif data.endswith(tail) and all(mark in data for mark in marks):
                    right += 1
                else:
                    wrong += 1
                    examples.append(f"for {marks!r}: {data[-200:]!r}")
                number = next(following, None)
                if number is None:
                    open_ -= 1
                else:
                    link.tag = number
                    client.ask(link, pool[number][0])
        busy += time.perf_counter() - begin
        if asked % (10 * _POOL) == 0 or asked == count:
            print(f"  {asked:,} asked, {wrong + failed} wrong or failed", flush=True)
    client.close()
    return {
        "right": right,
        "wrong": wrong,
        "failed": failed,
        "examples": examples[:5],
        "rate": asked / busy,
    }


def _question(
    session: Any, random: np.random.Generator, number: int
) -> tuple[bytes, bytes, tuple[bytes, ...]]:
    """The request, the bytes that end its answer, and others that must be in it."""
    rows, length = int(random.integers(1, _ROWS + 1)), int(random.integers(1, _LENGTHS + 1))
    # Multiples of 1/256, whose sums float32 holds exactly: ONNX Runtime adds in an order that
    # depends on the address at which a row begins, alone as well as in a batch.
    x = random.integers(-(1 << 17), 1 << 17, (rows, length)).astype(np.float32) / np.float32(256)
    y = session.run({"x": x})["y"]
    identity = f"{number:09d}"
    marks = (f'"id":"{identity}"'.encode(), f'"shape":[{rows},{length}]'.encode())
    if random.random() < _JSON_SHARE:
        import orjson

        data = orjson.dumps(y.ravel(), option=orjson.OPT_SERIALIZE_NUMPY)
        text = orjson.dumps(x.ravel(), option=orjson.OPT_SERIALIZE_NUMPY)
        head = json.dumps({"id": identity})[:-1].encode()
        body = b'%b,"inputs":[{"name":"x","datatype":"FP32","shape":[%d,%d],"data":%b}]}' % (
            head,
            rows,
            length,
            text,
        )
        return requests_of.post(_PATH, body), b'"data":%b}]}' % data, marks
    return requests_of.as_binary(_PATH, {"x": x}, id=identity), y.tobytes(), marks

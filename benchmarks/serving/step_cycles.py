"""Models come and go a thousand times while others are asked."""

from __future__ import annotations

import http.client
import json
import time
from typing import Any

import generator
import networks
import numpy as np
import requests_of
import servers
from pinned import Bench, on

AIM = 1.05
RATE = 300.0
_TOKEN = "a-token-for-the-benchmark"
_SETTLED = 0.1  # share of the cycles after which memory is held to be what it needs


def measure(bench: Bench, cycles: int) -> dict[str, Any]:
    """Each cycle loads and unloads one model, and loads another anew that is being asked.

    The model that comes and goes is asked once in every cycle, right after its load.
    """
    model = networks.perceptron(bench.work / "mlp.onnx")
    tokens = bench.work / "tokens"
    tokens.write_text(f"{_TOKEN}\n")
    row = {"x": np.ones((1, 64), np.float32)}
    names = ("steady", "renewed", "fleeting")
    asking = {name: requests_of.as_json(f"/v2/models/{name}/infer", row) for name in names}
    stop = bench.work / "stop"
    stop.unlink(missing_ok=True)
    server = servers.strop(
        dict.fromkeys(names, model),
        asking["steady"],
        cpu=bench.serve,
        work=bench.work,
        options=["--token-file", tokens],
    )
    traffic = [asking["steady"], asking["renewed"]]
    with server, on(bench.load) as load:
        answers = load.submit(
            generator.poisson, server.port, traffic, RATE, 1e6, connections=32, stop=stop
        )
        time.sleep(1.0)
        begin = time.monotonic()
        memory = []
        admin = _Admin(server.port)
        for number in range(cycles):
            admin.post("/v2/repository/models/fleeting/load")
            admin.post("/v2/models/fleeting/infer", requests_of.body_of(asking["fleeting"]))
            admin.post("/v2/repository/models/renewed/load")
            admin.post("/v2/repository/models/fleeting/unload")
            if number % max(1, cycles // 100) == 0:
                memory.append((number, server.resident()))
        seconds = time.monotonic() - begin
        stop.touch()
        found = answers.result()
        time.sleep(1.0)
        memory.append((cycles, server.resident()))
    settled = next(size for number, size in memory if number >= _SETTLED * cycles)
    drift = memory[-1][1] / settled
    errors = sum(number for status, number in found["counts"].items() if status != 200)
    print(
        f"  {cycles} cycles in {seconds:.0f} s, {errors} errors, memory × {drift:.3f}", flush=True
    )
    return {
        "cycles": cycles,
        "seconds": seconds,
        "rate": RATE,
        "answers": found["counts"].get(200, 0),
        "errors": errors + found["unanswered"],
        "admin_errors": admin.errors,
        "latency": found["accepted_latency"],
        "memory": memory,
        "memory_drift": drift,
        "met": {
            "no_error": not errors and not found["unanswered"] and not admin.errors,
            "memory": drift <= AIM,
        },
    }


class _Admin:
    """One connection for what only the operator may do."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self.errors: list[str] = []

    def post(self, path: str, body: bytes = b"") -> None:
        headers = {"Authorization": f"Bearer {_TOKEN}"}
        self._connection.request("POST", path, body, headers)
        response = self._connection.getresponse()
        text = response.read()
        if response.status != 200:
            shown = json.loads(text or b"{}").get("error", "")
            self.errors.append(f"{path}: {response.status} {shown}")

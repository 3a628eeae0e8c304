"""64 floats as JSON over 32 connections: requests a second, server beside server."""

from __future__ import annotations

from typing import Any

import generator
import networks
import numpy as np
import requests_of
import servers
from pinned import Bench, on, spread

CONNECTIONS = 32
RIVALS = ("mlserver", "litserve", "mosec")
AIMS = {"mlserver": 5.0, "litserve": 8.0, "mosec": 2.0, "bare": 0.85}


def measure(bench: Bench) -> dict[str, Any]:
    """Rounds over all servers, each a fresh process; ratios are taken within a round."""
    model = networks.perceptron(bench.work / "mlp.onnx")
    for name in RIVALS:
        servers.install(name, bench.venvs)
    names = ("strop", "bare", "bare with batches", *RIVALS)
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for number in range(bench.rounds):
        # The order turns with the rounds, so that a drift of the machine favours nobody.
        for name in names[number % len(names) :] + names[: number % len(names)]:
            rows[name].append(_once(name, model, bench))
            print(f"  round {number + 1}: {name} {rows[name][-1]['rate']:,.0f}/s", flush=True)
    rates = {name: [row["rate"] for row in rows[name]] for name in names}
    ratios = {
        name: spread([ours / it for ours, it in zip(rates["strop"], rates[name], strict=True)])
        for name in names[1:]
    }
    return {
        "connections": CONNECTIONS,
        "batch": servers.BATCH,
        "wait_ms": servers.WAIT_MS,
        "servers": {
            name: {
                "rate": spread(rates[name]),
                "median_seconds": spread([row["latency"]["median"] for row in rows[name]]),
                "p99_seconds": spread([row["latency"]["p99"] for row in rows[name]]),
                "server_cpu": spread([row["server_cpu"] for row in rows[name]]),
                "cpu_per_request": spread([row["cpu_per_request"] for row in rows[name]]),
                "generator_cpu": spread([row["generator_cpu"] for row in rows[name]]),
                # What the generator would reach with all of its core.
                "ceiling": spread([row["rate"] / row["generator_cpu"] for row in rows[name]]),
                "rows_per_batch": rows[name][-1].get("rows_per_batch"),
                "errors": sum(sum(row["errors"].values()) for row in rows[name]),
            }
            for name in names
        },
        "ratios": ratios,
        "met": {name: ratios[name]["median"] >= aim for name, aim in AIMS.items()},
        "versions": {name: servers.version_of(name, bench.venvs) for name in RIVALS},
    }


def _once(name: str, model: Any, bench: Bench) -> dict[str, Any]:
    random = np.random.default_rng(1)
    path = servers.path_of(name)
    requests = [
        requests_of.as_json(path, {"x": random.standard_normal((1, 64)).astype(np.float32)})
        for _ in range(256)
    ]
    where = {"cpu": bench.serve, "work": bench.work}
    if name == "strop":
        server = servers.strop({"mlp": model}, requests[0], **where)
    elif name.startswith("bare"):
        server = servers.bare(requests[0], model=None if name == "bare" else model, **where)
    else:
        server = servers.rival(name, model, requests[0], venvs=bench.venvs, **where)
    warm = min(1.0, bench.seconds / 2)
    with server, on(bench.load) as load:
        load.submit(int).result()  # the generator's process is there
        before = server.cpu_seconds()
        found = load.submit(
            generator.closed, server.port, requests, CONNECTIONS, bench.seconds, warm
        ).result()
        found["server_cpu"] = (server.cpu_seconds() - before) / (bench.seconds + warm)
        found["cpu_per_request"] = found["server_cpu"] / found["rate"]
        if name == "strop":
            stats = server.json("/v2/models/mlp/stats")["model_stats"][0]
            found["rows_per_batch"] = stats["inference_count"] / stats["execution_count"]
    return found

"""What the way over HTTP costs a model: throughput kept, latency added."""

from __future__ import annotations

import time
from typing import Any

import generator
import servers
from pinned import Bench, on, spread
from subjects import Subject

AIM_KEPT = 0.95
AIM_ADDED = {"median": 0.0005, "p99": 0.001}


def measure(subject: Subject, bench: Bench) -> dict[str, Any]:
    """Rounds of the engine in a process of its own, then of a server, both on the same core."""
    engine: list[dict[str, Any]] = []
    server: list[dict[str, Any]] = []
    for number in range(bench.rounds):
        with on(bench.serve) as alone:
            engine.append(alone.submit(run_engine, subject, bench.seconds).result())
        server.append(_serve(subject, bench))
        print(
            f"  round {number + 1}: {subject.name} alone {engine[-1]['rate']:,.0f} rows/s, "
            f"served {server[-1]['full']['rows']:,.0f} and {server[-1]['single']['rows']:,.0f}",
            flush=True,
        )
    pairs = list(zip(engine, server, strict=True))
    kept = {
        kind: spread([ours[kind]["rows"] / theirs["rate"] for theirs, ours in pairs])
        for kind in ("full", "single")
    }
    added = {
        key: spread([ours["one"][key] - theirs["latency"][key] for theirs, ours in pairs])
        for key in ("median", "p99")
    }
    return {
        "name": subject.name,
        "form": "bundle" if subject.path.is_dir() else "ONNX file",
        "batch": subject.batch,
        "engine_rate": spread([row["rate"] for row in engine]),
        "engine_latency": {
            key: spread([row["latency"][key] for row in engine]) for key in ("median", "p99")
        },
        "served_rate": {
            kind: spread([row[kind]["rows"] for row in server]) for kind in ("full", "single")
        },
        "rows_per_batch": {
            kind: spread([row[kind]["rows_per_batch"] for row in server])
            for kind in ("full", "single")
        },
        "served_latency": {key: spread([row["one"][key] for row in server]) for key in AIM_ADDED},
        "kept": kept,
        "added": added,
        "errors": sum(sum(row[kind]["errors"].values()) for row in server for kind in kept),
        "met": {
            "kept": kept["full"]["median"] >= AIM_KEPT,
            "kept_single": kept["single"]["median"] >= AIM_KEPT,
            **{f"added_{key}": added[key]["median"] <= aim for key, aim in AIM_ADDED.items()},
        },
    }


def run_engine(subject: Subject, seconds: float) -> dict[str, Any]:
    """The very session that the server opens, called in a loop and nothing else."""
    from strop.serve.model import open_model
    from strop.serve.settings import ModelSettings

    settings = ModelSettings(subject.path, workers=1, threads=1)
    session = open_model(subject.name, "1", subject.path, settings).session
    clock = time.perf_counter
    batch, one = subject.rows(subject.batch), subject.rows(1)
    _repeat(session, batch, seconds / 4)
    times = _repeat(session, batch, seconds)
    _repeat(session, one, seconds / 4)
    begin = clock()
    latencies = _repeat(session, one, seconds)
    return {
        "rate": subject.batch * len(times) / sum(times),
        "latency": generator.summary(latencies),
        "seconds": clock() - begin,
    }


def _repeat(session: Any, arrays: Any, seconds: float) -> list[float]:
    clock = time.perf_counter
    times = []
    now = clock()
    end = now + seconds
    while now < end:
        session.run(arrays)
        before, now = now, clock()
        times.append(now - before)
    return times


def _serve(subject: Subject, bench: Bench) -> dict[str, Any]:
    ones = subject.requests(1, 32)
    full = subject.requests(subject.batch, 4)
    options = ["--max-batch", subject.batch, "--workers", 1, "--threads", 1]
    server = servers.strop(
        {subject.name: subject.path}, ones[0], cpu=bench.serve, work=bench.work, options=options
    )
    found: dict[str, Any] = {}
    warm = min(1.0, bench.seconds / 2)
    with server, on(bench.load) as load:

        def ask(requests: list[bytes], connections: int, spin: bool) -> dict[str, Any]:
            call = (server.port, requests, connections, bench.seconds, warm, spin)
            return load.submit(generator.closed, *call).result()

        found["one"] = ask(ones, 1, True)["latency"]
        # Two batches in flight or more: one is received while the other is computed.
        for kind, requests, rows, connections in (
            ("full", full, subject.batch, 3),
            ("single", ones, 1, 3 * subject.batch),
        ):
            before = _counts(server, subject.name)
            found[kind] = ask(requests, connections, False)
            after = _counts(server, subject.name)
            found[kind]["rows"] = found[kind]["rate"] * rows
            found[kind]["rows_per_batch"] = (after[0] - before[0]) / (after[1] - before[1])
    return found


def _counts(server: servers.Server, name: str) -> tuple[int, int]:
    stats: Any = server.json(f"/v2/models/{name}/stats")
    entry = stats["model_stats"][0]
    return entry["inference_count"], entry["execution_count"]

"""Ten times as many requests as the server can answer."""

from __future__ import annotations

import threading
import time
from typing import Any

import generator
import servers
from pinned import Bench, on
from subjects import Subject

TIMES = 10
AIMS = {"refusal_seconds": 0.005, "of_peak": 0.9, "memory": 1.05}
_LEVELS = (2, 4, 8, 16, 32)


class Memory(threading.Thread):
    """Reads a server's resident memory twice a second."""

    def __init__(self, server: servers.Server) -> None:
        super().__init__(daemon=True)
        self.samples: list[tuple[float, int]] = []
        self._server = server
        self._over = threading.Event()

    def run(self) -> None:
        begin = time.monotonic()
        while not self._over.wait(0.5):
            self.samples.append((time.monotonic() - begin, self._server.resident()))

    def stop(self) -> None:
        self._over.set()
        self.join()


def bound(offered: float, peak: float, refusal_seconds: float) -> float:
    """The most of the peak that one core can answer while it refuses all the rest.

    At the peak an answer costs 1 / peak seconds of the core. So of a second that has to hold the
    accepted, a, at that cost and `offered` - a refusals at theirs, a / peak is at most this.
    """
    return max(0.0, (1 - offered * refusal_seconds) / (1 - peak * refusal_seconds))


def late_steps(timeline: list[str], slo: float, refusal: float) -> dict[str, int]:
    """In how many steps of the timeline some answer came late: few of them are stalls."""
    worst = [tuple(float(it) / 1e3 for it in line.split()[-2:]) for line in timeline]
    return {
        "all": len(worst),
        "accepted": sum(accepted > slo for accepted, _ in worst),
        "refused": sum(refused > refusal for _, refused in worst),
    }


def measure(subject: Subject, bench: Bench, seconds: float) -> dict[str, Any]:
    """The peak by closed loops of growing width, then Poisson arrivals at ten times that."""
    requests = subject.requests(1, 64)
    options = ["--slo", f"{subject.slo * 1000:g}ms", "--workers", 1, "--threads", 1]
    server = servers.strop(
        {subject.name: subject.path}, requests[0], cpu=bench.serve, work=bench.work, options=options
    )
    with server, on(bench.load) as load:
        closed = {}
        for width in _LEVELS:
            call = (server.port, requests, width, bench.seconds, min(1.0, bench.seconds / 2))
            found = load.submit(generator.closed, *call).result()
            if found["latency"].get("p99", 1e9) <= subject.slo:
                closed[width] = found["rate"]
        if not closed:
            return {"name": subject.name, "error": "no load at all kept the objective"}
        peak = max(closed.values())
        memory = Memory(server)
        memory.start()
        before = server.cpu_seconds()
        rate = TIMES * peak
        found = load.submit(generator.poisson, server.port, requests, rate, seconds).result()
        used = (server.cpu_seconds() - before) / found["seconds"]
        memory.stop()
    bare = servers.refusing(requests[0], cpu=bench.serve, work=bench.work)
    with bare, on(bench.load) as load:
        before = bare.cpu_seconds()
        call = (bare.port, requests, rate, min(seconds, 2 * bench.seconds))
        told = load.submit(generator.poisson, *call).result()
        bare_seconds = (bare.cpu_seconds() - before) / sum(told["counts"].values())
    samples = memory.samples
    quarter = [size for _, size in samples[len(samples) // 4 : len(samples) // 2]]
    settled = max(quarter, default=samples[0][1])
    grown = samples[-1][1] / settled
    refused = found["refusal_latency"]
    print(
        f"  {subject.name}: peak {peak:,.0f}/s, offered {found['offered']:,.0f}/s, "
        f"accepted {found['accepted']:,.0f}/s",
        flush=True,
    )
    return {
        "name": subject.name,
        "form": "bundle" if subject.path.is_dir() else "ONNX file",
        "slo_seconds": subject.slo,
        "closed": closed,
        "peak": peak,
        **found,
        "timeline_columns": generator.Timeline.COLUMNS,
        "late_steps": late_steps(found["timeline"], subject.slo, AIMS["refusal_seconds"]),
        "server_cpu": used,
        "of_peak": found["accepted"] / peak,
        "bare_refusal_seconds": bare_seconds,
        "bound_of_peak": bound(rate, peak, bare_seconds),
        "memory": [(round(at, 1), size) for at, size in samples],
        "memory_grown": grown,
        "met": {
            "slo": found["accepted_latency"].get("p99", 1e9) <= subject.slo,
            "refusals": refused.get("p99", 0.0) <= AIMS["refusal_seconds"],
            "retry_after": found["retry_after"] == found["counts"].get(503, 0),
            "of_peak": found["accepted"] / peak >= AIMS["of_peak"],
            "memory": grown <= AIMS["memory"],
            "nothing_else": set(found["counts"]) <= {200, 503} and not found["unanswered"],
        },
    }

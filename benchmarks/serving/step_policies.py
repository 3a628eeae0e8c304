"""The deadline-aware policy beside fixed sizes and delays, on real requests.

The simulation of src/strop/serve/simulate.py, in fact: the same server, model, SLO and admission,
and arrivals at random at some shares of what the deadline-aware one can answer.
"""

from __future__ import annotations

from typing import Any

import generator
import servers
from pinned import Bench, on
from subjects import Subject

POLICIES: dict[str, dict[str, str]] = {
    "deadline": {"policy": "deadline"},
    "fixed, 1 ms": {"policy": "fixed", "delay": "1ms"},
    "fixed, 5 ms": {"policy": "fixed", "delay": "5ms"},
}
LOADS = (0.2, 0.6, 0.9, 1.5)
_WIDTHS = (4, 8, 16)


def measure(subject: Subject, bench: Bench) -> dict[str, Any]:
    """Latency and share refused of every policy at every load, a fresh server a policy."""
    requests = subject.requests(1, 64)
    peak, rows = 0.0, []
    for policy, settings in POLICIES.items():
        config = (
            bench.work / f"{subject.name}-{settings['policy']}-{settings.get('delay', '')}.yaml"
        )
        options = [f"    {key}: {value}" for key, value in settings.items()]
        lines = [f"    path: {subject.path.resolve()}", f"    slo: {subject.slo * 1e3:g}ms"]
        lines += [f"    max_batch: {subject.batch}", "    workers: 1", "    threads: 1", *options]
        config.write_text("\n".join(["models:", f"  {subject.name}:", *lines]) + "\n")
        server = servers.strop(
            {}, requests[0], cpu=bench.serve, work=bench.work, options=["--config", config]
        )
        with server, on(bench.load) as load:
            if not peak:
                for width in _WIDTHS:
                    call = (server.port, requests, width, bench.seconds, 1.0)
                    peak = max(peak, load.submit(generator.closed, *call).result()["rate"])
            for share in LOADS:
                call = (server.port, requests, share * peak, bench.seconds)
                found = load.submit(generator.poisson, *call).result()
                counts = found["counts"]
                rows.append(
                    {
                        "policy": policy,
                        "load": share,
                        "offered": found["offered"],
                        "accepted": found["accepted"],
                        "latency": found["accepted_latency"],
                        "refused": counts.get(503, 0) / max(1, sum(counts.values())),
                    }
                )
        print(f"  {subject.name}: {policy} done", flush=True)
    return {"name": subject.name, "slo_seconds": subject.slo, "peak": peak, "rows": rows}

"""What the page at ``/`` shows, as one small document."""

from __future__ import annotations

import time
from typing import Any

import strop
from strop.serve.batcher import Batcher
from strop.serve.core import Core
from strop.serve.model import TensorInfo
from strop.serve.statistics import Histogram


def overview(core: Core, live: dict[str, Any]) -> dict[str, Any]:
    """Counters of every model since it was loaded; who reads them twice knows the rates.

    Parameters
    ----------
    live
        What the front knows: ``uptime``, ``draining``, ``connections``, ``in_flight_bytes``.
    """
    batchers = {(it.model.name, it.model.version): it for it in core.repository.batchers()}
    models = []
    for state in core.repository.index():
        entry: dict[str, Any] = {**state._asdict(), "slo": None}
        batcher = batchers.get((state.name, state.version))
        if batcher is not None:
            entry.update(_figures(batcher))
        models.append(entry)
    return {
        "strop": strop.__version__,
        "time": time.monotonic(),
        "state": "draining" if live["draining"] else "ready" if core.ready() else "loading",
        **live,
        "models": models,
    }


def _figures(batcher: Batcher) -> dict[str, Any]:
    model, counted = batcher.model, batcher.model.statistics
    return {
        "platform": model.platform,
        "inputs": ", ".join(map(_tensor, model.inputs)),
        "outputs": ", ".join(map(_tensor, model.outputs)),
        "batching": _batching(batcher),
        "max_batch": model.limit,
        "slo": model.settings.slo,
        "waiting": batcher.queued,
        "success": counted.success.count,
        "failed": sum(counted.refused.get(why, 0) for why in ("model", "hang", "internal")),
        "refused": {
            why: count
            for why, count in counted.refused.items()
            if why not in ("model", "hang", "internal")
        },
        "cancelled": counted.cancelled,
        "late": counted.late,
        "inferences": counted.inferences,
        "executions": counted.executions,
        "total": _histogram(counted.total_seconds),
        "queue": _histogram(counted.queue_seconds),
        "batch": _histogram(counted.batch_rows),
        "cache": None
        if batcher.cache is None
        else {
            "hits": counted.cache_hits,
            "misses": counted.cache_misses,
            "shared": counted.cache_shared,
        },
    }


def _batching(batcher: Batcher) -> str:
    model = batcher.model
    if not model.batching.allowed:
        return f"off: {model.batching.reason}"
    if model.batching.deviation == 0.0:
        return f"up to {model.limit} rows, answers equal to the last bit"
    return f"up to {model.limit} rows, answers within {model.batching.deviation:.1e}"


def _histogram(histogram: Histogram) -> dict[str, Any]:
    return {"bounds": histogram.bounds, "counts": histogram.counts}


def _tensor(info: TensorInfo) -> str:
    dims = ", ".join("?" if dim == -1 else str(dim) for dim in info.shape)
    return f"{info.name}: {info.datatype}[{dims}]"

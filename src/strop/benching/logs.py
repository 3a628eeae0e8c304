"""What LoadGen wrote about a run: the figures of its detail log, and latencies of its trace."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from strop.errors import StropError

_MARK = ":::MLLOG "
_SAMPLE = re.compile(
    rb'"query_seq":(\d+),"sample_idx":\d+,"issue_start_ns":\d+,"complete_ns":(\d+)'
)


def figures(folder: Path) -> dict[str, Any]:
    """The last value of each key of ``mlperf_log_detail.txt``.

    Errors that LoadGen logged are under ``errors``, as a list of texts.

    Raises
    ------
    StropError
        When the run left no result.
    """
    found: dict[str, Any] = {"errors": []}
    for line in (folder / "mlperf_log_detail.txt").read_text().splitlines():
        if not line.startswith(_MARK):
            continue
        entry = json.loads(line[len(_MARK) :])
        found[entry["key"]] = entry["value"]
        if entry.get("metadata", {}).get("is_error"):
            found["errors"].append(f"{entry['key']}: {entry['value']}")
    if "result_validity" not in found:
        raise StropError("LoadGen ended without a result")
    return found


def latencies(folder: Path) -> np.ndarray:
    """Seconds of each query, float64[n], from when it was scheduled until its last sample is done.

    From ``mlperf_log_trace.json``: LoadGen's own clock, the latencies that its percentiles are of.
    """
    last: dict[int, int] = {}
    with (folder / "mlperf_log_trace.json").open("rb") as trace:
        for line in trace:
            if found := _SAMPLE.search(line):
                query, done = int(found[1]), int(found[2])
                last[query] = max(last.get(query, 0), done)
    return np.fromiter(last.values(), dtype=np.float64, count=len(last)) / 1e9

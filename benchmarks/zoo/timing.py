"""All candidates of one model timed in one run: rounds for the table, pairs for the verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from candidates import DELIVERED, EAGER, Candidate, original_signature
from entries import Entry, in_folder

from strop import data as datasets
from strop.errors import StropError
from strop.measure import pair, screen, speedup
from strop.records import SessionSpec

CONTENDS = 1.10
"""A stock result within this factor of the fastest one in rounds is timed in pairs as well."""
MARGIN = 0.03
"""*Never slower* means: the ratio's lower 95% bound is above 1 less this."""

ALWAYS = (EAGER, "ORT fp32")
_LOOKED_AT = 101


def time_all(
    entry: Entry,
    zoo: Path,
    candidates: Sequence[Candidate],
    quality: Mapping[str, Any],
    *,
    rounds: int,
    launches: int,
) -> dict[str, Any]:
    """Rounds at every batch size, then the delivered against its rivals, launch by launch.

    Returns ``rounds`` (by batch and name: median ``seconds``, or ``error``), ``pairs`` (at the
    first batch size, by rival: ``ratio``, ``low``, ``high`` of the rival's time over the
    delivered's) and ``best`` (the rival that is hardest to beat within the tolerance).
    """
    specs = {it.name: it.spec for it in candidates if it.spec is not None}
    tables = {}
    for batch in entry.batches:
        print(f"{entry.name}: rounds at batch {batch}", flush=True)
        inputs = inputs_of(entry, zoo, batch)
        timed = screen(specs, inputs, rounds=rounds, warmup_seconds=1.5, most_alive=len(specs))
        tables[batch] = {
            name: {"seconds": found.seconds, "rounds": [float(x) for x in found.rounds]}
            if len(found.rounds)
            else {"error": _one_line(found.error)}
            for name, found in timed.items()
        }
    first = entry.batches[0]
    rivals = contenders(tables[first], quality["rows"])
    pairs: dict[str, Any] = {}
    for name in dict.fromkeys((*ALWAYS, *rivals)):
        if name in specs and "seconds" in tables[first][name]:
            print(f"{entry.name}: {DELIVERED} against {name}", flush=True)
            # Baselines are many times slower: half the launches bound their ratio well enough.
            count = launches if name in rivals else max(launches // 2, 3)
            pairs[name] = _pair(specs[name], specs[DELIVERED], inputs_of(entry, zoo, first), count)
    held = [name for name in rivals if "ratio" in pairs.get(name, {})]
    best = min(held, key=lambda name: float(pairs[name]["ratio"]), default=None)
    return {
        "rounds": {str(batch): table for batch, table in tables.items()},
        "pairs": pairs,
        "best": best,
        "verdict": None if best is None else verdict(pairs[best]),
    }


def contenders(table: Mapping[str, Any], quality: Mapping[str, Any]) -> list[str]:
    """Stock results within the tolerance, among them those about as fast as the fastest.

    >>> rows = {"strop": {"seconds": 1.0}, "A": {"seconds": 2.0}, "B": {"seconds": 1.5}}
    >>> contenders(rows, {"A": {"within": True}, "B": {"within": False}})
    ['A']
    """
    seconds = {
        name: row["seconds"]
        for name, row in table.items()
        if name not in (DELIVERED, EAGER)
        and "seconds" in row
        and quality.get(name, {}).get("within", False)
    }
    fastest = min(seconds.values(), default=0.0)
    return [name for name, value in seconds.items() if value <= CONTENDS * fastest]


def verdict(found: Mapping[str, Any]) -> str:
    """``faster``, ``not slower`` (within :data:`MARGIN`), ``slower`` or ``undecided``.

    >>> verdict({"low": 1.02, "high": 1.1}), verdict({"low": 0.98, "high": 1.1})
    ('faster', 'not slower')
    """
    if found["low"] > 1:
        return "faster"
    if found["low"] > 1 - MARGIN:
        return "not slower"
    return "slower" if found["high"] < 1 else "undecided"


def _pair(rival: SessionSpec, ours: SessionSpec, inputs: Any, launches: int) -> dict[str, Any]:
    try:
        timing = pair(rival, ours, inputs, launches=launches, warmup_seconds=1.5)
        found = speedup(timing, "rival")
    except StropError as error:
        return {"error": _one_line(error)}
    return {
        "ratio": found.ratio.estimate,
        "low": found.ratio.low,
        "high": found.ratio.high,
        "launches": timing.launches,
        "log_ratios": [float(value) for value in timing.log_ratios],
        "rival_seconds": float(np.median(np.concatenate(timing.a_seconds))),
        "seconds": float(np.median(np.concatenate(timing.b_seconds))),
    }


def inputs_of(entry: Entry, zoo: Path, batch: int) -> dict[str, np.ndarray]:
    """One batch of held-out rows: the first ones, which are random; alone, one of median length.

    Padding shows as zeros in integer inputs. A model that skips it would be flattered or slighted
    by the luck of one row; in a larger batch the longest row decides.
    """
    dataset = datasets.read(
        zoo / "heldout.npz",
        original_signature(zoo),
        preprocess=None if entry.preprocess is None else in_folder(zoo, entry.preprocess),
        trust=True,
    )
    if batch > 1:
        return dataset.inputs(np.arange(batch) % len(dataset))
    rows = np.arange(min(_LOOKED_AT, len(dataset)))
    lengths = np.zeros(len(rows))
    for values in dataset.inputs(rows).values():
        if np.issubdtype(values.dtype, np.integer):
            lengths += np.count_nonzero(values.reshape(len(rows), -1), axis=1)
    median = int(np.argsort(lengths, kind="stable")[len(rows) // 2])
    return dataset.inputs([median])


def _one_line(error: Exception | None) -> str:
    text = "" if error is None else str(error)
    return next((line.strip() for line in text.splitlines() if line.strip()), "not timed")[:240]

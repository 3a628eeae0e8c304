"""Which layers cost the most quality for the time that int8 wins there.

Quality is measured, not guessed from weights: each layer in turn runs in int8 with all the others
in float, and the error of the model's outputs is what it costs. Errors of layers are nearly
independent, so their squares nearly add up, and the best layers to keep in float are those with
the greatest squared error per microsecond won (the greedy answer to a knapsack).
"""

from __future__ import annotations

import json
import math
import re
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from strop.techniques.calibration import Arrays, check_deadline, element_counts, open_session
from strop.techniques.quantisable import Layer

if TYPE_CHECKING:
    from onnx import ModelProto

_TIMED_RUNS = 12
_CONVERSION = 0.15e-3
"""Microseconds to convert one element between float and int8, there being no way to leave a layer
in float without converting what it reads and writes."""


def rank_layers(
    errors: Mapping[str, float], microseconds: Mapping[str, float] | None = None
) -> list[str]:
    """Layer names, those to keep in float first.

    Parameters
    ----------
    errors
        Squared error of the outputs by layer.
    microseconds
        What int8 wins by layer; None ranks by error alone. A layer that wins nothing in int8 comes
        first.

    Examples
    --------
    >>> rank_layers({"a": 4e-3, "b": 1e-3, "c": 1e-5}, {"a": 100.0, "b": 10.0, "c": 0.0})
    ['c', 'b', 'a']
    """

    def value(name: str) -> float:
        won = 1.0 if microseconds is None else microseconds[name]
        return errors[name] / won if won > 0 else math.inf

    return sorted(errors, key=lambda name: (-value(name), name))


def layer_errors(
    model: ModelProto,
    layers: Sequence[Layer],
    build: Callable[[Collection[str]], ModelProto],
    batch: Arrays,
    *,
    deadline: float | None = None,
) -> dict[str, float]:
    """Squared error that each layer alone causes in int8.

    Parameters
    ----------
    build
        Makes the quantised model that keeps the layers of the given names in float.
    batch
        Inputs of some rows.

    Returns
    -------
    By layer name, :func:`output_error` between the float model and the model with that layer in
    int8, zero point, weights and all.
    """
    reference = open_session(model).run(None, dict(batch))
    names = [layer.name for layer in layers]
    errors = {}
    for name in names:
        check_deadline(deadline)
        session = open_session(build([other for other in names if other != name]))
        errors[name] = output_error(reference, session.run(None, dict(batch)))
    return errors


def output_error(reference: Sequence[np.ndarray], candidate: Sequence[np.ndarray]) -> float:
    """Squared L2 distance over squared L2 norm, averaged over rows and float outputs.

    Examples
    --------
    >>> output_error([np.array([[3.0, 4.0]])], [np.array([[3.0, 4.5]])])
    0.01
    """
    errors = []
    for expected, actual in zip(reference, candidate, strict=True):
        if expected.dtype.kind != "f" or not expected.size:
            continue
        rows = expected.shape[0] if expected.ndim > 1 else 1
        expected = expected.reshape(rows, -1).astype(np.float64)
        distance = ((actual.reshape(rows, -1) - expected) ** 2).sum(axis=1)
        norm = np.maximum((expected**2).sum(axis=1), 1e-30)
        errors.append(float((distance / norm).mean()))
    return float(np.mean(errors)) if errors else 0.0


def layer_microseconds(
    model: ModelProto,
    quantised: ModelProto,
    layers: Sequence[Layer],
    batch: Arrays,
    *,
    threads: int | None = None,
) -> dict[str, float]:
    """Microseconds that `quantised` wins over `model` by each layer, zero at least.

    The least of several runs by ONNX Runtime's own profile, on `batch`, and what converting its
    input and output to float and back would take. A layer that is fused away in either model
    counts as twice as fast in int8.
    """
    before = _kernel_times(model, batch, threads)
    after = _kernel_times(quantised, batch, threads)
    sizes = element_counts(
        model, [n for layer in layers for n in (layer.data, layer.output)], batch
    )
    won = {}
    for layer in layers:
        # The fused convolution of the blocked layout is named after what it writes.
        names = (layer.name, layer.output, layer.raw_output)
        slow = next((before[name] for name in names if name in before), None)
        fast = next((after[name] for name in names if name in after), None)
        if slow is None:
            slow = 2 * (fast or 0.0)
        converted = _CONVERSION * (sizes[layer.data] + sizes[layer.output])
        won[layer.name] = max(slow - (slow / 2 if fast is None else fast) + converted, 0.0)
    return won


def cached(path: Path, key: str, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `compute` gives, kept in the JSON file `path` under `key`.

    A file that is torn or of another key is computed anew.
    """
    try:
        document = json.loads(path.read_text())
        if document["key"] == key:
            value: dict[str, Any] = document["value"]
            return value
    except (OSError, ValueError, KeyError):
        pass
    value = compute()
    aside = path.with_suffix(".tmp")
    aside.write_text(json.dumps({"key": key, "value": value}))
    aside.replace(path)
    return value


def _kernel_times(model: ModelProto, batch: Arrays, threads: int | None) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        session = open_session(model, profile=f"{folder}/profile", threads=threads)
        for _ in range(_TIMED_RUNS):
            session.run(None, dict(batch))
        events = json.loads(Path(session.end_profiling()).read_text())
    least: dict[str, float] = {}
    for event in events:
        if event.get("cat") != "Node" or not event["name"].endswith("_kernel_time"):
            continue
        name = event["name"].removesuffix("_kernel_time")
        name = re.sub(r"(_nchwc|_token_\d+|_nhwc|_quant)+$", "", name)
        least[name] = min(least.get(name, math.inf), float(event["dur"]))
    return least

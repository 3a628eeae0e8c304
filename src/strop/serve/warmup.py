"""What is found out about a model before it takes traffic; runs on the loader's thread."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from strop.errors import StropError
from strop.models.parity import parity
from strop.models.sample import random_inputs
from strop.serve.curve import LatencyCurve
from strop.serve.model import Batching, ServedModel

_log = logging.getLogger("strop.serve")

Arrays = dict[str, np.ndarray]

_COMPARED = 4
"""Rows whose answers alone are held against those in a batch."""
_POINT_SECONDS = 0.05
_CALLS = (3, 30)
_TOTAL_SECONDS = 10.0
_INLINE_SECONDS = 0.0005
_INLINE_WORST = 0.001
"""A full batch may run on the event loop's own thread if half of them take at most so long, and 99
of 100 at most so long."""
_INLINE_CALLS = 200
_LOOPS = re.compile(r'type="(Loop|TensorIterator|If)"')


def warm(model: ServedModel) -> None:
    """Run the model at every batch size: kernels, memory, curve, and what `model` leaves open.

    Decides `batching` (does a row's answer depend on its neighbours?), `inline` and
    `reuses_buffers`, and fills the curve. A model that cannot run on made-up inputs (a free
    dimension that only takes certain sizes) is served all the same, without batching.
    """
    try:
        alone = [_rows(model, 1, skip=index) for index in range(_COMPARED)]
        answers = [model.run(dict(arrays)) for arrays in alone]
    except StropError as error:
        _log.warning("'%s' cannot be warmed up: %s", model.name, error)
        if model.batching.allowed and model.settings.batching == "auto":
            model.batching = Batching(False, "it could not be warmed up")
        _renew_curve(model)
        model.inline = False  # of what it takes nothing is known
        return
    if model.batching.allowed:
        model.batching = _examine(model, alone, answers)
        if not model.batching.allowed:
            _log.warning(
                "requests to '%s' do not share batches: %s", model.name, model.batching.reason
            )
    _renew_curve(model)
    model.reuses_buffers = not any(
        np.may_share_memory(given, answer)
        for given in alone[0].values()
        for answer in answers[0].values()
    )
    _measure(model)
    model.inline = _may_run_inline(model)
    model.examples = {}  # they have served, and may be megabytes


def _examine(model: ServedModel, alone: list[Arrays], answers: list[Arrays]) -> Batching:
    """Whether rows are answered in a batch as they are alone."""
    most = model.settings.max_batch
    worst = 0.0
    for size in sorted({min(2, most), min(_COMPARED, most), most}):
        parts = [alone[index % len(alone)] for index in range(size)]
        batch = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        try:
            together = model.run(batch)
        except StropError:
            return Batching(False, f"it does not run with {size} rows")
        for name, array in together.items():
            if array.ndim == 0 or array.shape[0] != size:
                return Batching(False, f"output '{name}' does not scale with the batch")
        if model.settings.batching == "always":
            continue
        for index in range(min(size, len(alone))):
            own = {name: array[index : index + 1] for name, array in together.items()}
            worst = max(worst, parity(answers[index], own).max_relative_error)
    if worst > model.settings.tolerance:
        reason = f"a row's answer depends on its neighbours (relative error {worst:.1g})"
        return Batching(False, reason, worst)
    return Batching(True, "", worst)


def _measure(model: ServedModel) -> None:
    until = time.monotonic() + _TOTAL_SECONDS
    for size in model.curve.sizes:
        arrays = _rows(model, size)
        model.run(dict(arrays))
        begin = time.monotonic()
        least, most = _CALLS
        for call in range(most):
            before = time.monotonic()
            model.run(arrays)
            after = time.monotonic()
            model.curve.observe(size, after - before)
            if call + 1 >= least and after - begin > _POINT_SECONDS:
                break
        if time.monotonic() > until:
            return


def _may_run_inline(model: ServedModel) -> bool:
    """Whether batches may run on the loop's own thread, where nothing else happens meanwhile.

    Who asks for it (``inline: true``) answers for graphs that loop, but no setting puts a model
    there that is seen to be slow.
    """
    asked = model.settings.inline
    if asked is False or model.curve.p50(model.limit) > _INLINE_SECONDS:
        quick = False
    else:
        quick = _worst(model) <= _INLINE_WORST
    if asked and not quick:
        _log.warning("'%s' is too slow to run inline: it runs on a thread", model.name)
    return quick and (bool(asked) or (model.workers == 1 and not _may_loop(model)))


def _worst(model: ServedModel) -> float:
    """Seconds that 99 of 100 full batches stay within; the curve has too few calls to say."""
    arrays = _rows(model, model.limit)
    seconds = []
    for _ in range(_INLINE_CALLS):
        before = time.monotonic()
        model.run(dict(arrays))
        seconds.append(time.monotonic() - before)
    return sorted(seconds)[_INLINE_CALLS * 99 // 100 - 1]


def _renew_curve(model: ServedModel) -> None:
    points = model.manifest.latency_curve if model.manifest is not None else ()
    model.curve = LatencyCurve(model.limit, points)


def _rows(model: ServedModel, rows: int, skip: int = 0) -> Arrays:
    """Real examples where the bundle has them, else random values; `skip` takes other ones."""
    if model.signature.batch_is_dynamic and _varied(model.examples):
        return {
            name: np.ascontiguousarray(array[(np.arange(rows) + skip) % len(array)])
            for name, array in model.examples.items()
        }
    return random_inputs(model.signature, rows=rows, seed=skip)


def _varied(examples: Mapping[str, np.ndarray]) -> bool:
    return bool(examples) and all(
        array.ndim > 0 and len(array) >= _COMPARED for array in examples.values()
    )


def _may_loop(model: ServedModel) -> bool:
    """Whether the graph holds loops or branches, whose time no warm-up can know."""
    path = Path(model.spec.artifact)
    if path.suffix == ".onnx":
        from strop.models import graph

        return graph.control_flow(graph.read(path))
    if path.suffix == ".xml":
        return _LOOPS.search(path.read_text()) is not None
    return True

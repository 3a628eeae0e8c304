"""One look at a model, without a search."""

from __future__ import annotations

import dataclasses
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from strop import data as datasets
from strop import engines, techniques
from strop.errors import StropError
from strop.inspection.record import Cost, Inspection, Layer, Limit, Verdict
from strop.inspection.sizes import input_sizes
from strop.measure import bound, describe, peaks
from strop.models.model import Model
from strop.models.sample import Shapes
from strop.records import Applicability, Signature, Space, Target, TensorSpec
from strop.search.intake import busy_notes, pickled
from strop.search.request import text_of
from strop.search.workspace import rethrown
from strop.workers import Child

_HEAVIEST = 10
_EXAMPLES = 8


def inspect(
    model: Any,
    *,
    shapes: Shapes | None = None,
    examples: Mapping[str, np.ndarray] | None = None,
    data: Any = None,
    reader: str | None = None,
    preprocess: str | None = None,
    renames: Mapping[str, str] | None = None,
    trust: bool = False,
    measure: bool = True,
    say: Callable[[str], None] = lambda line: None,
) -> Inspection:
    """Look at a model without running a search.

    Parameters
    ----------
    model
        As :func:`strop.optimize` takes it: a path, ``"file.py:callable"`` with ``trust=True``, an
        `nn.Module` or an estimator.
    shapes
        Sizes of inputs by name. A free first dimension is 1 otherwise, any other 8;
        ``Inspection.assumed`` tells which were.
    examples
        Arrays by input name, examples along dimension 0: a module needs them, or `shapes`, to be
        traced, and the sizes of free dimensions but the first are taken from them.
    data
        Where to read a few examples instead, as :func:`strop.optimize` takes them.
    reader, preprocess, renames
        As :func:`strop.data.read` takes them.
    trust
        Whether Python code that the arguments name may run.
    measure
        Whether to measure this machine's peaks, which takes some seconds.
    say
        Takes short lines about what goes on.

    Raises
    ------
    InputError
        When the model or the examples cannot be read, or a shape does not fit the model.

    Examples
    --------
    >>> found = inspect("model.onnx", shapes={"ids": [1, 128]})  # doctest: +SKIP
    >>> found.cost.flops, found.limit.side  # doctest: +SKIP
    (21743403008, 'compute')
    """
    machine = describe()
    notes: list[str] = []
    if data is not None and examples is None:
        examples = datasets.peek(
            data, _EXAMPLES, reader=reader, preprocess=preprocess, trust=trust, renames=renames
        )
    with tempfile.TemporaryDirectory(prefix="strop-inspect-") as folder:
        with Child(name="inspect") as child, rethrown():
            say("reading the model")
            opened = _import(child, model, Path(folder), shapes, examples, trust)
            sizes, assumed = input_sizes(opened.signature, shapes, examples)
            for spec in opened.signature.inputs:
                if spec.name not in sizes:
                    notes.append(
                        f"the rank of '{spec.name}' is unknown: pass --shape {spec.name}=1x…"
                    )
            cost = None
            if "onnx" in opened.forms:
                say("counting operations")
                facts = child.call(
                    "strop.inspection.inspecting:count",
                    model=str(opened.path),
                    sizes={name: list(shape) for name, shape in sizes.items()},
                )
                cost = _cost(facts, opened.signature, sizes)
            else:
                reasons = (opened.meta.get(name) for name in ("export_error", "onnx_error"))
                reason = next(filter(None, reasons), "no ONNX form")
                notes.append(f"operations cannot be counted: {reason}")
        limit = None
        if measure and cost is not None:
            say("measuring the peaks of this machine")
            notes += busy_notes()
            limit = _limit(cost)
        target = Target(machine=machine)
        return Inspection(
            model=text_of(model),
            format=str(opened.meta.get("original_format", "strop")),
            producer=str(opened.meta.get("producer", "unknown")),
            model_digest=opened.digest,
            signature=opened.signature,
            changes=tuple(map(str, opened.meta.get("changes", ()))),
            notes=(*map(str, opened.meta.get("notes", ())), *notes),
            sizes=sizes,
            assumed=assumed,
            cost=cost,
            limit=limit,
            engines=tuple(_engine_verdicts(opened, target)),
            techniques=tuple(_technique_verdicts(opened, target)),
            machine=machine,
        )


def count(model: str, sizes: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """`strop.models.facts.facts` as plain values; runs in a child."""
    from strop.models.facts import facts

    return dataclasses.asdict(facts(Model.open(Path(model)), shapes=sizes))


def _import(
    child: Child,
    given: Any,
    folder: Path,
    shapes: Shapes | None,
    examples: Mapping[str, np.ndarray] | None,
    trust: bool,
) -> Model:
    live = not isinstance(given, str | Path)
    path = child.call(
        "strop.search.jobs:import_model",
        source=None if live else str(given),
        payload=pickled(given) if live else None,
        workdir=str(folder / "model"),
        examples=None if examples is None else {n: np.asarray(a) for n, a in examples.items()},
        trust=trust,
        output_names=None,
        shapes=None if shapes is None else {name: list(dims) for name, dims in shapes.items()},
    )
    return Model.open(Path(path))


def _cost(
    facts: Mapping[str, Any], signature: Signature, sizes: Mapping[str, tuple[int, ...]]
) -> Cost:
    layers = [
        Layer(
            name=layer["name"],
            operator=layer["operator"],
            flops=layer["flops"],
            bytes_moved=layer["bytes_moved"],
        )
        for layer in facts["layers"]
        if layer["flops"]
    ]
    layers.sort(key=lambda layer: layer.flops, reverse=True)
    symbols = {
        dim: size
        for spec in signature.inputs
        for dim, size in zip(spec.shape or (), sizes.get(spec.name, ()), strict=False)
        if isinstance(dim, str)
    }
    border = sum(_bytes(spec, sizes.get(spec.name)) for spec in signature.inputs)
    for spec in signature.outputs:
        dims = [symbols.get(dim, dim) if isinstance(dim, str) else dim for dim in spec.shape or ()]
        known = tuple(dim for dim in dims if isinstance(dim, int))
        border += _bytes(spec, known if spec.shape and len(known) == len(dims) else None)
    names = ("operators", "parameters", "flops", "bytes_moved", "weights_bytes")
    flags = ("control_flow", "quantised", "unknown_nodes")
    return Cost(
        **{name: facts[name] for name in (*names, *flags)},
        least_bytes=facts["weights_bytes"] + border,
        heaviest=tuple(layers[:_HEAVIEST]),
    )


def _bytes(spec: TensorSpec, shape: tuple[int, ...] | None) -> int:
    """Bytes of a tensor; 0 where they are not known, so that a sum stays a lower bound."""
    if shape is None or spec.dtype == "str":
        return 0
    try:
        width = np.dtype(spec.dtype).itemsize
    except TypeError:  # bfloat16 and the floats and integers of 8 bits and less
        width = 2 if spec.dtype == "bfloat16" else 1
    return math.prod(shape) * width


def _limit(cost: Cost) -> Limit:
    measured = peaks()
    peak = measured.int8 if cost.quantised else measured.fp32
    found = bound(cost.flops, cost.least_bytes, peak, measured.bandwidth)
    return Limit(
        arithmetic="int8" if cost.quantised else "fp32",
        peak=peak,
        bandwidth=measured.bandwidth,
        threads=measured.threads,
        intensity=cost.flops / max(cost.least_bytes, 1),
        seconds=found.seconds,
        side=found.side,
    )


def _engine_verdicts(model: Model, target: Target) -> Iterator[Verdict]:
    for name in engines.names():
        try:
            engine = engines.get(name)
            answer = engine.available() and engine.applies(model, target)
            space = engine.space(model, target) if answer else Space()
        except StropError as error:  # one broken plug-in must not hide the others
            answer, space = Applicability.no(str(error)), Space()
        yield Verdict(name=name, ok=answer.ok, reason=answer.reason, space=space)


def _technique_verdicts(model: Model, target: Target) -> Iterator[Verdict]:
    for name in techniques.names():
        needs: tuple[str, ...] = ()
        try:
            technique = techniques.get(name)
            # What the user has to give: examples to choose by are always there.
            needs = tuple(role for role in technique.roles if role != "search")
            answer = technique.applies(model, target)
            space = technique.space(model, target) if answer else Space()
        except StropError as error:
            answer, space = Applicability.no(str(error)), Space()
        yield Verdict(name=name, ok=answer.ok, reason=answer.reason, needs=needs, space=space)

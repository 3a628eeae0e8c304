"""What engines ask about a model before they build it: its forms, its border, its operators."""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

from strop.models.model import Model
from strop.records import Applicability, Signature

NUMBERS = frozenset(
    {
        *("float16", "float32", "float64", "bool"),
        *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
    }
)
"""The dtypes of numpy's own that runtimes take at their border."""


def has_form(model: Model, forms: Iterable[str]) -> Applicability:
    """Whether the model has one of the forms; otherwise why the export gave none."""
    if any(form in model.forms for form in forms):
        return Applicability.yes()
    for form in forms:
        if reason := model.meta.get(f"{form}_error"):
            return Applicability.no(str(reason))
    failure = model.meta.get("export_error")
    why = f"; the export failed: {failure}" if failure else ""
    return Applicability.no(f"needs an ONNX form{why}")


def border_types(signature: Signature, known: Collection[str]) -> Applicability:
    """Whether all inputs and outputs have dtypes that the runtime's Python interface takes."""
    for spec in (*signature.inputs, *signature.outputs):
        if spec.dtype not in known:
            return Applicability.no(f"takes no {spec.dtype} at the border ('{spec.name}')")
    return Applicability.yes()


def known_domains(path: Path, known: Collection[str]) -> Applicability:
    """Whether every operator is in a `known` domain, or a function that the file itself defines."""
    foreign = [name for domain, name in _operators(path) if domain not in known]
    if foreign:
        return Applicability.no(f"custom operators: {', '.join(sorted(foreign))}")
    return Applicability.yes()


@functools.lru_cache(maxsize=8)
def _operators(path: Path) -> frozenset[tuple[str, str]]:
    """(domain, domain::name) of the operators in the file, less those that it defines itself."""
    import onnx

    proto = onnx.load(path, load_external_data=False)
    own = {(function.domain, function.name) for function in proto.functions}
    bodies = [proto.graph, *proto.functions]
    nodes = {(node.domain, node.op_type) for body in bodies for node in _nodes(body)}
    return frozenset(
        ("" if domain == "ai.onnx" else domain, f"{domain}::{name}") for domain, name in nodes - own
    )


def _nodes(graph: Any) -> Iterator[Any]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _nodes(attribute.g)
            for branch in attribute.graphs:
                yield from _nodes(branch)

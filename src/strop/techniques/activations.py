"""Activations spelled out in many operators, known again by the values that they give.

Exporters write one activation in many ways: GELU's cube as a power or as two products, its halves
inside or outside. Rather than know every spelling, the pointwise part between one tensor and
another is run on a grid of numbers and compared with the activations that ONNX has.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from strop.errors import ModelError
from strop.models.normal import raise_opset
from strop.models.runner import run
from strop.techniques.onnx_view import GraphView

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

POINTWISE = frozenset(
    {"Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Neg", "Abs", "Sqrt", "Reciprocal"}
    | {"Exp", "Log", "Tanh", "Erf", "Sigmoid", "Softplus", "Relu", "LeakyRelu", "Elu", "Selu"}
    | {"Clip", "HardSigmoid", "HardSwish", "Gelu", "Mish", "Softsign", "Identity"}
)
"""Operators that treat each element by itself, constants aside."""

_CURVED = frozenset({"Tanh", "Erf", "Sigmoid", "Softplus", "Clip", "HardSigmoid", "Relu", "Exp"})
_GRID = np.concatenate([np.linspace(-12, 12, 4001), np.linspace(-80, 80, 401)])
_BOUND = 2e-6
"""Largest error on the grid, relative to 1 + |x|: what float32 makes of sums of six terms."""
_LONGEST = 16
"""Nodes that one activation takes at most."""


@dataclass(frozen=True)
class _Known:
    op: str
    opset: int
    attributes: tuple[tuple[str, str], ...]
    value: Callable[[np.ndarray], np.ndarray]


def fuse_activations(model: ModelProto) -> ModelProto:
    """Put one operator where a pointwise part of the graph computes GELU, HardSwish or Mish.

    Returns
    -------
    The model; another object of a later operator set where GELU (20) or Mish (18) needs one and
    ONNX's converter can bring it there.

    References
    ----------
    Hendrycks & Gimpel 2016, arXiv:1606.08415 (GELU); Howard et al. 2019, arXiv:1905.02244
    (HardSwish); Misra 2019, arXiv:1908.08681 (Mish).
    """
    view = GraphView(model)
    found: list[tuple[str, str, _Known]] = []
    inside: set[str] = set()
    for node in reversed(list(view.nodes.values())):
        if node.name in inside or node.op_type not in ("Mul", "Div"):
            continue
        part = _part(view, node)
        if part is None:
            continue
        source, names = part
        known = _recognise(model, view, source, node.output[0], names)
        if known is not None:
            found.append((source, node.output[0], known))
            inside |= names
    if not found:
        return model
    needed = max(known.opset for *_, known in found)
    if needed > view.opset:
        try:
            model = raise_opset(model, needed)
        except ModelError:
            found = [entry for entry in found if entry[2].opset <= view.opset]
    producers = {name: node for node in model.graph.node for name in node.output}
    for source, output, known in found:
        _replace(producers[output], source, known)
    return model


def _part(view: GraphView, last: NodeProto) -> tuple[str, set[str]] | None:
    """The tensor that alone `last` is a pointwise function of, and the nodes between."""
    order = {name: place for place, name in enumerate(view.nodes)}
    names: set[str] = set()
    leaves = {str(last.output[0])}
    while len(names) < _LONGEST:
        makers = [view.producer.get(leaf, "") for leaf in leaves]
        latest = max(makers, key=lambda name: order.get(name, -1))
        node = view.nodes.get(latest)
        if node is None or node.op_type not in POINTWISE:
            return None
        names.add(latest)
        leaves -= set(node.output)
        leaves |= {name for name in node.input if name and view.constant(name) is None}
        if not all(_is_number(view, name) for name in node.input if name not in leaves and name):
            return None
        curved = any(view.nodes[name].op_type in _CURVED for name in names)
        if len(leaves) == 1 and len(names) > 1 and curved:
            (source,) = leaves
            return (source, names) if source in view.floats else None
    return None


def _is_number(view: GraphView, name: str) -> bool:
    value = view.constant(name)
    return value is None or value.size == 1


def _recognise(
    model: ModelProto, view: GraphView, source: str, output: str, names: set[str]
) -> _Known | None:
    """The activation that the part computes: same values, same rank."""
    from onnx import TensorProto, helper

    ranks = [len(view.shapes[name]) for name in (source, output) if name in view.shapes]
    if len(ranks) != 2 or ranks[0] != ranks[1]:
        return None
    nodes = [node for node in model.graph.node if node.name in names]
    read = {name for node in nodes for name in node.input}
    shape = [1] * (ranks[0] - 1) + [_GRID.size] if ranks[0] else [_GRID.size]
    graph = helper.make_graph(
        nodes,
        "part",
        [helper.make_tensor_value_info(source, TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
        [entry for entry in model.graph.initializer if entry.name in read],
    )
    part = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    with np.errstate(over="ignore"):
        try:
            got = run(part, {source: _GRID.astype(np.float32).reshape(shape)})[output].ravel()
        except ModelError:
            return None
        for known in _KNOWN:
            error = np.abs(got - known.value(_GRID)) / (1 + np.abs(_GRID))
            if got.shape == _GRID.shape and np.nanmax(error) <= _BOUND and np.isfinite(got).all():
                return known
    return None


def _replace(node: NodeProto, source: str, known: _Known) -> None:
    """Let `node` be the one operator; what it read goes with the dead nodes."""
    from onnx import helper

    node.op_type = known.op
    del node.input[:]
    del node.attribute[:]
    node.input.append(source)
    node.attribute.extend(helper.make_attribute(name, value) for name, value in known.attributes)


_erf = np.vectorize(math.erf, otypes=[np.float64])


def _gelu(x: np.ndarray) -> np.ndarray:
    return np.asarray(0.5 * x * (1 + _erf(x / np.sqrt(2))))


def _gelu_tanh(x: np.ndarray) -> np.ndarray:
    return np.asarray(0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))))


def _hard_swish(x: np.ndarray) -> np.ndarray:
    return np.asarray(x * np.clip(x + 3, 0, 6) / 6)


def _mish(x: np.ndarray) -> np.ndarray:
    return np.asarray(x * np.tanh(np.logaddexp(0, x)))


_KNOWN = (
    _Known("HardSwish", 14, (), _hard_swish),
    _Known("Gelu", 20, (("approximate", "tanh"),), _gelu_tanh),
    _Known("Gelu", 20, (("approximate", "none"),), _gelu),
    _Known("Mish", 18, (), _mish),
)

"""Operators that exporters take apart, put together again before the translation.

GELU, LayerNorm, SiLU and hard-swish arrive as five or more operators from older operator sets.
As one layer each they can be replaced, pruned and quantised as what they are. A variance that is
written as E[x²] − E[x]² becomes the mean square of what is centred: the difference of two large
numbers is all rounding where a column hardly varies, and no two runtimes round alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from strop.models import graph

if TYPE_CHECKING:
    import onnx


def recognise(
    proto: onnx.ModelProto, shapes: Mapping[str, Sequence[Any]] | None = None
) -> onnx.ModelProto:
    """A copy of `proto` with the known patterns as one node each.

    What only a pattern read is left out; what something else reads as well stays beside it. The
    result is for the translation to PyTorch alone: ``Gelu`` and ``Swish`` are newer than the
    operator set that it declares.

    Parameters
    ----------
    shapes
        Of tensors by name, as far as they are known: a sum over an axis and a division make a
        mean only where its length is known.
    """
    import onnx
    from onnx import helper

    result = onnx.ModelProto()
    result.CopyFrom(proto)
    matcher = _Matcher(result.graph, graph.constants(result), shapes or {})
    for node in result.graph.node:
        for pattern in (_gelu, _layer_norm, _swish, _hard_swish, _variance):
            found = pattern(matcher, node)
            if found is not None:
                kind, inputs, attributes = found
                node.domain, _, node.op_type = kind.rpartition(".")
                del node.input[:]
                node.input.extend(inputs)
                del node.attribute[:]
                node.attribute.extend(helper.make_attribute(k, v) for k, v in attributes.items())
                break
    _drop_unread(result.graph)
    return result


def _drop_unread(main: onnx.GraphProto) -> None:
    read = {value.name for value in main.output}
    kept = []
    for node in reversed(main.node):
        if read.intersection(node.output):
            read.update(node.input)
            kept.append(type(node).FromString(node.SerializeToString()))
    del main.node[:]
    main.node.extend(reversed(kept))


class _Matcher:
    """Walks from a tensor towards what it is computed from."""

    def __init__(
        self,
        main: onnx.GraphProto,
        constants: Mapping[str, np.ndarray],
        shapes: Mapping[str, Sequence[Any]],
    ) -> None:
        self.constants = constants
        self.shapes = shapes
        self.producer = {name: node for node in main.node for name in node.output}

    def node(self, tensor: str, *kinds: str) -> onnx.NodeProto | None:
        """The node of one of `kinds` that computes `tensor`."""
        node = self.producer.get(tensor)
        return node if node is not None and node.op_type in kinds else None

    def number(self, tensor: str) -> float | None:
        """The value of a constant that is one number."""
        array = self.constants.get(tensor)
        return float(array.item()) if array is not None and array.size == 1 else None

    def operands(self, node: onnx.NodeProto) -> list[tuple[str, str]]:
        """Both orders of a binary node's inputs."""
        a, b = node.input
        return [(a, b), (b, a)]

    def times(self, tensor: str, factor: float) -> str | None:
        """What is multiplied by `factor` to give `tensor`, as a product or as a quotient."""
        node = self.node(tensor, "Mul", "Div")
        if node is None:
            return None
        if node.op_type == "Div":
            divisor = self.number(node.input[1])
            return node.input[0] if divisor and _near(1 / divisor, factor) else None
        for x, other in self.operands(node):
            value = self.number(other)
            if value is not None and _near(value, factor):
                return x
        return None

    def plus(self, tensor: str, term: float) -> str | None:
        """What `term` is added to, to give `tensor`."""
        node = self.node(tensor, "Add")
        for x, other in self.operands(node) if node is not None else ():
            value = self.number(other)
            if value is not None and _near(value, term):
                return x
        return None


_Found = tuple[str, list[str], dict[str, Any]]


def _gelu(match: _Matcher, node: onnx.NodeProto) -> _Found | None:
    """GELU: x · ½ · (1 + erf(x / √2)) in any order, and its approximation by tanh."""
    if node.op_type not in ("Mul", "Div"):
        return None
    pairs: list[tuple[str | None, str | None]] = []
    for a, b in match.operands(node) if node.op_type == "Mul" else ():
        pairs += [(match.times(a, 0.5), b), (a, match.times(b, 0.5))]
    whole = match.times(node.output[0], 0.5)
    product = match.node(whole, "Mul") if whole is not None else None
    pairs += match.operands(product) if product is not None else []
    for x, core in pairs:
        how = _gelu_core(match, x, core) if x is not None and core is not None else None
        if x is not None and how is not None:
            return "Gelu", [x], {"approximate": how}
    return None


def _gelu_core(match: _Matcher, x: str, tensor: str) -> str | None:
    """How `tensor` is 1 + erf(x / √2) or 1 + tanh(√(2/π) · (x + 0.044715 · x³))."""
    inner = match.plus(tensor, 1.0)
    node = match.node(inner, "Erf", "Tanh") if inner is not None else None
    if node is None:
        return None
    if node.op_type == "Erf":
        return "none" if match.times(node.input[0], 2**-0.5) == x else None
    total = match.times(node.input[0], (2 / np.pi) ** 0.5)
    added = match.node(total, "Add") if total is not None else None
    for first, cubic in match.operands(added) if added is not None else ():
        if first == x and _is_cubic(match, x, cubic):
            return "tanh"
    return None


def _is_cubic(match: _Matcher, x: str, tensor: str) -> bool:
    """Whether `tensor` is 0.044715 · x³, however the products are grouped."""
    factors, pending, scale = 0, [tensor], 1.0
    while pending:
        name = pending.pop()
        if name == x:
            factors += 1
        elif (value := match.number(name)) is not None:
            scale *= value
        elif (node := match.node(name, "Mul", "Pow")) is not None:
            if node.op_type == "Mul":
                pending += node.input
            elif node.input[0] == x and match.number(node.input[1]) == 3:
                factors += 3
            else:
                return False
        else:
            return False
    return factors == 3 and _near(scale, 0.044715)


def _layer_norm(match: _Matcher, node: onnx.NodeProto) -> _Found | None:
    """LayerNorm: (x − mean) / √(variance + ε) · scale + bias over the last axis."""
    if node.op_type != "Add":
        return None
    for tensor, bias in match.operands(node):
        product = match.node(tensor, "Mul")
        for quotient, scale in match.operands(product) if product is not None else ():
            found = _standardised(match, quotient)
            if found is None or scale not in match.constants or bias not in match.constants:
                continue
            one, other = match.constants[scale], match.constants[bias]
            if one.shape == other.shape and one.ndim == 1 and one.size > 1:
                return "LayerNormalization", [found[0], scale, bias], {"epsilon": found[1]}
    return None


def _standardised(match: _Matcher, tensor: str) -> tuple[str, float] | None:
    """The `x` and ε of which `tensor` is (x − mean) / √(mean((x − mean)²) + ε)."""
    quotient = match.node(tensor, "Div")
    if quotient is None:
        return None
    centred, root = match.node(quotient.input[0], "Sub"), match.node(quotient.input[1], "Sqrt")
    shifted = match.node(root.input[0], "Add") if root is not None else None
    if centred is None or shifted is None:
        return None
    x = centred.input[0]
    mean = match.node(centred.input[1], "ReduceMean")
    if mean is None or mean.input[0] != x or not _over_last(match, mean):
        return None
    for variance, term in match.operands(shifted):
        epsilon, average = match.number(term), match.node(variance, "ReduceMean")
        if epsilon is None or average is None or not _over_last(match, average):
            continue
        square = match.node(average.input[0], "Pow", "Mul")
        if square is None:
            continue
        power = square.op_type == "Pow" and match.number(square.input[1]) == 2
        if power or (square.op_type == "Mul" and square.input[0] == square.input[1]):
            again = match.node(square.input[0], "Sub")
            if again is not None and list(again.input) == list(centred.input):
                return x, epsilon
    return None


def _over_last(match: _Matcher, node: onnx.NodeProto) -> bool:
    attributes = {entry.name: entry for entry in node.attribute}
    if "keepdims" in attributes and not attributes["keepdims"].i:
        return False
    if "axes" in attributes:
        return list(attributes["axes"].ints) == [-1]
    given = match.constants.get(node.input[1]) if len(node.input) > 1 else None
    return given is not None and given.tolist() == [-1]


def _variance(match: _Matcher, node: onnx.NodeProto) -> _Found | None:
    """The variance: mean(x²) − mean(x)²."""
    product = match.node(node.input[1], "Mul") if node.op_type == "Sub" else None
    if product is None or product.input[0] != product.input[1]:
        return None
    mean, squares = _mean(match, product.input[0]), _mean(match, node.input[0])
    if mean is None or squares is None or mean[1:] != squares[1:]:
        return None
    square = match.node(squares[0], "Mul")
    if square is None or list(square.input) != [mean[0], mean[0]]:
        return None
    return "strop.ReduceVariance", [mean[0]], {"axes": list(mean[1]), "keepdims": mean[2]}


def _mean(match: _Matcher, tensor: str) -> tuple[str, tuple[int, ...], int] | None:
    """The `x`, the axes and whether they are kept, of which `tensor` is the mean over axes."""
    node = match.node(tensor, "ReduceMean")
    scaled = match.node(tensor, "Mul", "Div")
    if node is None and scaled is not None:
        for total, _ in match.operands(scaled):
            found = match.node(total, "ReduceSum")
            reduced = _reduced(match, found) if found is not None else None
            if found is None or reduced is None:
                continue
            sizes = [(match.shapes.get(found.input[0]) or ())[axis] for axis in reduced[0]]
            if all(isinstance(size, int) for size in sizes):
                node = found if match.times(tensor, 1 / np.prod(sizes)) == total else None
    if node is None or (reduced := _reduced(match, node)) is None:
        return None
    return node.input[0], *reduced


def _reduced(match: _Matcher, node: onnx.NodeProto) -> tuple[tuple[int, ...], int] | None:
    """The axes, counted from the front, that a reduction goes over, and whether it keeps them."""
    attributes = {entry.name: entry for entry in node.attribute}
    axes = list(attributes["axes"].ints) if "axes" in attributes else None
    if len(node.input) > 1 and node.input[1] in match.constants:
        axes = match.constants[node.input[1]].reshape(-1).tolist()
    rank = len(match.shapes.get(node.input[0]) or ())
    if not axes or not rank:
        return None
    keep = attributes["keepdims"].i if "keepdims" in attributes else 1
    return tuple(sorted(int(axis) % rank for axis in axes)), int(keep)


def _swish(match: _Matcher, node: onnx.NodeProto) -> _Found | None:
    """SiLU: x · sigmoid(x); some exporters multiply by one on the way."""
    if node.op_type != "Mul":
        return None
    for x, gate in match.operands(node):
        sigmoid = match.node(gate, "Sigmoid")
        if sigmoid is None:
            continue
        if sigmoid.input[0] == x or match.times(sigmoid.input[0], 1.0) == x:
            return "Swish", [x], {}
    return None


def _hard_swish(match: _Matcher, node: onnx.NodeProto) -> _Found | None:
    """Hard-swish: x · clip(x + 3, 0, 6) / 6 in any order."""
    if node.op_type not in ("Mul", "Div"):
        return None
    product = match.times(node.output[0], 1 / 6)
    inner = match.node(product, "Mul") if product is not None else None
    for x, gate in match.operands(inner) if inner is not None else ():
        if _is_gate(match, x, gate):
            return "HardSwish", [x], {}
    if node.op_type == "Mul":
        for x, gate in match.operands(node):
            divided = match.times(gate, 1 / 6)
            if divided is not None and _is_gate(match, x, divided):
                return "HardSwish", [x], {}
    return None


def _is_gate(match: _Matcher, x: str, tensor: str) -> bool:
    """Whether `tensor` is clip(x + 3, 0, 6)."""
    clip = match.node(tensor, "Clip")
    if clip is None or len(clip.input) < 3:
        return False
    bounds = [match.number(name) for name in clip.input[1:]]
    return bounds == [0.0, 6.0] and match.plus(clip.input[0], 3.0) == x


def _near(a: float, b: float) -> bool:
    return abs(a - b) <= 1e-5 * max(abs(a), abs(b))

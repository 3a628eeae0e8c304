"""What happens to the tokens of a sequence behind a point of a graph, dimension by dimension."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from strop.errors import NotApplicable
from strop.techniques.onnx_view import GraphView, attribute

if TYPE_CHECKING:
    from onnx import NodeProto

Axes = frozenset[int]

_NONE: Axes = frozenset()
_POINTWISE = """
Abs Add Cast Celu Clip Div Dropout Elu Erf Exp Gelu HardSigmoid HardSwish Identity LeakyRelu Log
Max Min Mish Mul Neg Pow Reciprocal Relu Selu Sigmoid Softplus Softsign Sqrt Sub Swish Tanh
ThresholdedRelu Where
"""


@dataclass(frozen=True)
class Place:
    """Where a graph takes for granted how many tokens there are, or that each counts once.

    Attributes
    ----------
    kind
        ``bias``: input `slot` of an Add is added to attention's scores, one number a key.
        ``weight``: input `slot` of a Mul weighs the tokens of a sum.
        ``softmax``: input `slot` has attention's scores, to which nothing is added.
        ``mean``: input `slot` is averaged over its tokens.
        ``shape``: input `slot` of a Reshape says how long dimension `axis` is.
    """

    kind: Literal["bias", "weight", "softmax", "mean", "shape"]
    node: str
    slot: int
    axis: int = 0


def follow(view: GraphView, tensor: str) -> tuple[Place, ...]:
    """What there is to change behind `tensor`, [batch, token, channel], for it to be shorter.

    Raises
    ------
    NotApplicable
        When something behind it needs every token: the outputs, a sum with what is not behind it,
        or an operator of which this module does not know what it does.
    """
    flow = _Flow(view)
    flow.axes[tensor] = frozenset({1})
    if tensor in view.outputs or tensor in view.captured:
        raise NotApplicable(f"'{tensor}' has an entry for each token")
    for node in view.nodes.values():
        if any(name in flow.axes for name in node.input):
            found = flow.through(node)
            for name in node.output:
                flow.axes[name] = found
                if found and (name in view.outputs or name in view.captured):
                    raise NotApplicable(f"'{name}' has an entry for each token")
    kinds = {place.kind for place in flow.places}
    if kinds >= {"bias", "mean"}:
        raise NotApplicable("its mean counts padding as well, which its attention leaves out")
    return tuple(flow.places)


class _Flow:
    def __init__(self, view: GraphView) -> None:
        self.view = view
        self.axes: dict[str, Axes] = {}
        self.places: list[Place] = []
        self.weighed: set[str] = set()
        """Tensors to be summed over their tokens, each of which is weighed."""
        self.biased: set[str] = set()
        """Scores of attention that each key's bias has been added to."""

    def through(self, node: NodeProto) -> Axes:
        """The token's dimensions in the outputs of `node`."""
        if not any(self.axes.get(name) for name in node.input):
            return _NONE  # what it reads has lost its tokens
        if node.domain not in ("", "ai.onnx"):
            raise _unknown(node)
        if node.op_type in _POINTWISE.split():
            return self._pointwise(node)
        handler = _HANDLERS.get(node.op_type)
        if handler is None:
            raise _unknown(node)
        return handler(self, node)

    def rank(self, name: str) -> int:
        return len(self.shape(name))

    def shape(self, name: str) -> tuple[int | None, ...]:
        if name not in self.view.shapes:
            raise NotApplicable(f"the shape of '{name}' is not known")
        return self.view.shapes[name]

    def constants(self, node: NodeProto, slot: int, name: str) -> list[int] | None:
        """Integers that are an attribute in older opsets and an input in newer ones."""
        given = attribute(node, name, None)
        if given is not None:
            return [int(value) for value in given]
        if len(node.input) <= slot or not node.input[slot]:
            return None
        found = self.view.constant(node.input[slot])
        if found is None:
            raise NotApplicable(f"{node.op_type} '{node.name}' takes {name} that are computed")
        return [int(value) for value in found.ravel()]

    def _pointwise(self, node: NodeProto) -> Axes:
        ranks = {name: self.rank(name) for name in node.input if name}
        rank = max(ranks.values())
        found = frozenset(
            axis + rank - ranks[name] for name in node.input for axis in self.axes.get(name, _NONE)
        )
        for slot, name in enumerate(node.input):
            if name and name not in self.axes:
                self._beside(node, slot, found, rank)
        if any(name in self.biased for name in node.input):
            self.biased.update(node.output)
        return found

    def _beside(self, node: NodeProto, slot: int, axes: Axes, rank: int) -> None:
        """What to make of an input that is not behind the point, and may have all tokens."""
        shape = self.shape(node.input[slot])
        offset = rank - len(shape)
        full = {axis for axis in axes if axis >= offset and shape[axis - offset] != 1}
        if not full:
            return
        reader = self.view.sole_consumer(node.output[0])
        kind = node.op_type
        if reader is not None and kind == "Add" and reader.op_type == "Softmax":
            is_key = full == {rank - 1} and set(shape[1:-1]) <= {1} and len(shape) == rank == 4
            if is_key and not self.biased & set(node.input):
                self.places.append(Place("bias", node.name, slot))
                self.biased.update(node.output)
                return
        if reader is not None and kind == "Mul" and reader.op_type == "ReduceSum":
            one_each = full == {1} and len(shape) == rank == 3 and shape[2] == 1
            if one_each and self._reduced(reader) == {1}:
                self.places.append(Place("weight", node.name, slot))
                self.weighed.update(node.output)
                return
        raise NotApplicable(
            f"{kind} '{node.name}' joins the tokens with '{node.input[slot]}', which has them all"
        )

    def _softmax(self, node: NodeProto) -> Axes:
        (name,) = node.input
        axes, rank = self.axes[name], self.rank(name)
        axis = attribute(node, "axis", -1) % rank
        if axis in axes:
            if axis != rank - 1 or rank != 4:
                raise _unknown(node)
            if name not in self.biased:
                self.places.append(Place("softmax", node.name, 0))
        return axes

    def _product(self, node: NodeProto) -> Axes:
        left, right = node.input
        ranks = self.rank(left), self.rank(right)
        if min(ranks) < 2:
            raise _unknown(node)
        rank = max(ranks)
        one, other = self.axes.get(left, _NONE), self.axes.get(right, _NONE)
        if (ranks[0] - 1 in one) != (ranks[1] - 2 in other):
            raise NotApplicable(f"'{node.name}' mixes the tokens by weights of their places")
        kept = {axis + rank - ranks[0] for axis in one if axis != ranks[0] - 1}
        kept |= {axis + rank - ranks[1] for axis in other if axis != ranks[1] - 2}
        return frozenset(kept)

    def _normalisation(self, node: NodeProto) -> Axes:
        axes, rank = self.axes.get(node.input[0], _NONE), self.rank(node.input[0])
        if any(axis >= attribute(node, "axis", -1) % rank for axis in axes):
            raise NotApplicable(f"'{node.name}' normalises over the tokens")
        return axes

    def _transpose(self, node: NodeProto) -> Axes:
        name = node.input[0]
        order = list(attribute(node, "perm", None) or reversed(range(self.rank(name))))
        return frozenset(order.index(axis) for axis in self.axes[name])

    def _reshape(self, node: NodeProto) -> Axes:
        name, target = node.input[0], node.input[1]
        before, after = self.shape(name), self.shape(node.output[0])
        if len(self.axes.get(name, _NONE)) != 1:
            raise _unknown(node)
        (axis,) = self.axes[name]
        behind = _product(before[axis + 1 :])
        fitting = [
            place
            for place in range(len(after))
            if behind is not None
            and _product(after[place + 1 :]) == behind
            and after[place] == before[axis]
        ]
        if len(fitting) != 1:
            raise NotApplicable(f"'{node.name}' folds the tokens into another dimension")
        if target not in self.axes:  # computed behind the point, it is right as it is
            self.places.append(Place("shape", node.name, 1, fitting[0]))
        return frozenset(fitting)

    def _squeeze(self, node: NodeProto) -> Axes:
        name = node.input[0]
        given = self.constants(node, 1, "axes")
        if given is None:
            raise _unknown(node)
        gone = {axis % self.rank(name) for axis in given}
        return frozenset(a - sum(g < a for g in gone) for a in self.axes[name])

    def _unsqueeze(self, node: NodeProto) -> Axes:
        name = node.input[0]
        given = self.constants(node, 1, "axes") or []
        rank = self.rank(name) + len(given)
        new = {axis % rank for axis in given}
        kept = [axis for axis in range(rank) if axis not in new]
        return frozenset(kept[axis] for axis in self.axes[name])

    def _split(self, node: NodeProto) -> Axes:
        axes = self.axes.get(node.input[0], _NONE)
        if attribute(node, "axis", 0) % self.rank(node.input[0]) in axes:
            raise NotApplicable(f"'{node.name}' splits the tokens")
        return axes

    def _concat(self, node: NodeProto) -> Axes:
        joined = {self.axes.get(name, _NONE) for name in node.input}
        axis = attribute(node, "axis", 0) % self.rank(node.input[0])
        if len(joined) != 1 or axis in next(iter(joined)):
            raise NotApplicable(f"'{node.name}' joins the tokens with others")
        return next(iter(joined))

    def _slice(self, node: NodeProto) -> Axes:
        name = node.input[0]
        starts, ends = self.constants(node, 1, "starts"), self.constants(node, 2, "ends")
        axes = self.constants(node, 3, "axes") or list(range(len(starts or ())))
        if starts is None or ends is None:
            raise _unknown(node)
        cut = {
            axis % self.rank(name): (start, end)
            for axis, start, end in zip(axes, starts, ends, strict=True)
        }
        return self._first_only(node, {axis: cut[axis] for axis in self.axes[name] if axis in cut})

    def _gather(self, node: NodeProto) -> Axes:
        name, where = node.input
        if name not in self.axes or where in self.axes:
            raise _unknown(node)
        rank, more = self.rank(name), self.rank(where) - 1
        axis = attribute(node, "axis", 0) % rank
        if axis in self.axes[name]:
            found = self.view.constant(where)
            if found is None or found.size != 1 or int(found.ravel()[0]) != 0:
                raise NotApplicable(f"'{node.name}' picks tokens by their places")
        kept = self.axes[name] - {axis}
        return frozenset(a + more if a > axis else a for a in kept)

    def _first_only(self, node: NodeProto, cut: Mapping[int, tuple[int, int]]) -> Axes:
        """The first token stays the first: it alone may be taken by its place."""
        if any(bounds != (0, 1) for bounds in cut.values()):
            raise NotApplicable(f"'{node.name}' picks tokens by their places")
        return self.axes[node.input[0]] - set(cut)

    def _reduced(self, node: NodeProto) -> set[int]:
        rank = self.rank(node.input[0])
        given = self.constants(node, 1, "axes")
        return set(range(rank)) if given is None else {axis % rank for axis in given}

    def _reduction(self, node: NodeProto) -> Axes:
        name = node.input[0]
        axes, gone = self.axes[name], self._reduced(node)
        if gone & axes:
            if node.op_type == "ReduceMean" and gone == axes == {1}:
                self.places.append(Place("mean", node.name, 0))
            elif node.op_type != "ReduceSum" or name not in self.weighed:
                raise NotApplicable(f"{node.op_type} '{node.name}' counts each token once")
        kept = axes - gone
        if attribute(node, "keepdims", 1):
            return kept
        return frozenset(a - sum(g < a for g in gone) for a in kept)

    def _sizes(self, node: NodeProto) -> Axes:
        return _NONE


def _product(sizes: tuple[int | None, ...]) -> int | None:
    known = [size for size in sizes if size is not None]
    return math.prod(known) if len(known) == len(sizes) else None


def _unknown(node: NodeProto) -> NotApplicable:
    return NotApplicable(f"what {node.op_type} '{node.name}' does to the tokens is not known")


_HANDLERS: dict[str, Callable[[_Flow, NodeProto], Axes]] = {
    "Softmax": _Flow._softmax,
    "MatMul": _Flow._product,
    "LayerNormalization": _Flow._normalisation,
    "Transpose": _Flow._transpose,
    "Reshape": _Flow._reshape,
    "Squeeze": _Flow._squeeze,
    "Unsqueeze": _Flow._unsqueeze,
    "Split": _Flow._split,
    "Concat": _Flow._concat,
    "Slice": _Flow._slice,
    "Gather": _Flow._gather,
    "ReduceMean": _Flow._reduction,
    "ReduceSum": _Flow._reduction,
    "ReduceL2": _Flow._reduction,
    "ReduceMax": _Flow._reduction,
    "Shape": _Flow._sizes,
}

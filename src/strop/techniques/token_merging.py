"""The operators that merge tokens at one point of an ONNX graph, and what they change behind it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from strop.techniques.onnx_view import GraphView, attribute
from strop.techniques.token_flow import Place

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

_EMPTY = 8.0
"""Likeness, otherwise within ±1, of a token that stands for nothing (padding): it goes first."""
_TINY, _NORM = 1e-30, 1e-6
_TIES = (1e-6, 3.3e-6)
"""By how much a likeness depends on the places, above what sums of float32 differ by; of the odd
token's less than of the even one's, or the two would cancel."""

PREFIX = "merge_tokens/"
"""Begins the names of all nodes that merge: likeness and mass are no layers to be rounded."""


class Merging:
    """One point where tokens are merged: alike pairs become their mean, weighted by their mass.

    Bipartite soft matching (Bolya et al., *Token merging: your ViT but faster*, 2023,
    arXiv:2210.09461): every second token may be merged into the one of the others that it is most
    like, and those most alike are. What is added up is added by products with matrices of zeros
    and ones, so that every engine runs it and gradients pass through. The first token stays the
    first and is never merged into another: networks read their answer off it.

    Parameters
    ----------
    proto
        The graph, changed in place. Its nodes have names, each its own.
    view
        Of `proto` before.
    tensor
        float[batch, token, channel], to be shorter from here on.
    percent
        Of the tokens that are merged away, below 50: floor(tokens · percent / 100), of two tokens
        none. The graph then needs two tokens at least.
    prefix
        Begins the names of all that is inserted.
    mass
        The tensor [batch, token] of how many tokens each stands for, from an earlier merging;
        None where each is one, or where attention's bias says so.
    """

    def __init__(
        self,
        proto: ModelProto,
        view: GraphView,
        tensor: str,
        percent: int,
        prefix: str,
        mass: str | None = None,
    ) -> None:
        self._proto, self._view, self._tensor = proto, view, tensor
        self._percent, self._prefix = percent, prefix
        self._mass = mass
        self._nodes: list[NodeProto] = []
        self._constants: dict[str, np.ndarray] = {}
        self._instead: dict[str, str] = {}

    def apply(self, places: Sequence[Place]) -> str:
        """Merge, and change all `places` behind the point; the new mass's name."""
        biases = list(dict.fromkeys(self._side(p) for p in places if p.kind == "bias"))
        weights = list(dict.fromkeys(self._side(p) for p in places if p.kind == "weight"))
        columns = [self._column(self._mass, biases[0] if biases else None)]
        columns += [self._column(None, bias) for bias in biases[1:]]
        joined, merged = self._merged([*columns, *weights])
        mass = self._add("Squeeze", [merged[0], self._ints(2)], "mass")
        for bias, column in zip(biases, merged, strict=False):
            self._instead[bias] = self._row(column)
        self._instead.update(zip(weights, merged[len(columns) :], strict=True))
        renamed = {self._tensor: joined}
        for place in places:
            self._change(place, mass)
        own = {node.name for node in self._nodes}
        for node in self._proto.graph.node:
            if node.name not in own:
                for slot, name in enumerate(node.input):
                    node.input[slot] = renamed.get(name, name)
        self._write()
        return mass

    def _column(self, mass: str | None, bias: str | None) -> str:
        """float[batch, token, 1]: how many tokens each stands for."""
        if bias is not None:  # float[batch, 1, 1, token], added to the scores of each key
            row = self._add("Squeeze", [self._add("Exp", [bias]), self._ints(1)])
            return self._add("Transpose", [row], perm=[0, 2, 1])
        if mass is not None:
            return self._add("Unsqueeze", [mass, self._ints(2)])
        one = self._add("Slice", [self._tensor, self._ints(0), self._ints(1), self._ints(2)])
        return self._add("Add", [self._add("Mul", [one, self._floats(0)]), self._floats(1)])

    def _row(self, column: str) -> str:
        """What is added to the scores of a key: of a merged one, what its parts had together."""
        logs = self._add("Log", [self._add("Max", [column, self._floats(_TINY)])])
        row = self._add("Transpose", [logs], perm=[0, 2, 1])
        return self._add("Unsqueeze", [row, self._ints(1)])

    def _merged(self, columns: Sequence[str]) -> tuple[str, list[str]]:
        """The tokens that are left, and what `columns` are for them; the first column is mass."""
        self._match(columns[0])
        merged = [self._summed(column) for column in columns]
        row = self._add("Transpose", [columns[0]], perm=[0, 2, 1])
        floor = self._add("Max", [merged[0], self._floats(_TINY)])
        # Shares of at most one: an engine that rounds this product rounds no sums of many tokens.
        shares = self._add("Div", [self._add("Mul", [self._parts, row]), floor])
        return self._add("MatMul", [shares, self._tensor], "joined"), merged

    def _match(self, mass: str) -> None:
        """Which tokens become one: ``parts``, float[batch, left, token] of zeros and ones.

        Those at even places but the first may go; of what is left the first token is the first.
        """
        length = self._reduced("ReduceL2", self._tensor, -1, keep=True)
        length = self._add("Max", [length, self._floats(_NORM)])
        unit = self._add("Div", [self._tensor, length])
        count = self._count(self._tensor, 1)
        evens, odds = self._range(0, count, 2), self._range(1, count, 2)
        odd = self._add("Transpose", [self._taken(unit, odds)], perm=[0, 2, 1])
        likeness = self._add("MatMul", [self._taken(unit, evens), odd])
        likeness = self._add("Sub", [likeness, self._ramp(odds, _TIES[0])])
        most = self._add(
            "Add", [self._reduced("ReduceMax", likeness, -1), self._ramp(evens, _TIES[1])]
        )
        full = self._add("Squeeze", [self._taken(mass, evens), self._ints(2)])
        is_empty = self._add("Less", [full, self._floats(0.5)])
        most = self._add("Where", [is_empty, self._floats(_EMPTY), most])
        is_first = self._add("Equal", [evens, self._ints(0)])
        most = self._add("Where", [is_first, self._floats(-_EMPTY), most])
        total = self._add("Mul", [count, self._ints(self._percent)])
        gone = self._add("Div", [total, self._ints(100)])
        stays = self._add("Sub", [self._add("Shape", [evens]), gone])
        # Places among the even ones, in their order: engines that round otherwise sort otherwise.
        order, _ = self._ascending(self._ascending(most, stays)[1], stays)
        places = self._range(0, self._add("Shape", [evens]), 1)
        is_kept = self._reduced("ReduceMax", self._one_hot(order, places), 1)
        is_kept = self._add("Less", [self._floats(0.5), is_kept])
        there = self._taken(odds, self._add("ArgMax", [likeness], axis=2, keepdims=0), axis=0)
        there = self._add("Where", [is_kept, evens, there])
        rows = [self._count(order, 0), self._add("Shape", [odds])]
        others = self._add("Expand", [odds, self._add("Concat", rows, axis=0)])
        left = self._add("Concat", [self._taken(evens, order, axis=0), others], axis=1)
        # Into what each token goes, the tokens in their order.
        goal = self._add("Concat", [there, others], axis=1)
        _, back = self._ascending(self._add("Concat", [evens, odds], axis=0), count)
        goal = self._add("Unsqueeze", [self._taken(goal, back), self._ints(1)])
        left = self._add("Unsqueeze", [left, self._ints(2)])
        self._parts = self._cast(self._add("Equal", [left, goal]), "FLOAT")

    def _ramp(self, places: str, slope: float) -> str:
        """float[·], a little more from place to place: of equals, engines take the same one."""
        return self._add("Mul", [self._cast(places, "FLOAT"), self._floats(slope)])

    def _ascending(self, values: str, count: str) -> tuple[str, str]:
        """The `count` least values along the last dimension, and their places."""
        from onnx import helper

        names = [f"{self._prefix}{name}{len(self._nodes)}" for name in ("least", "places")]
        self._nodes.append(
            helper.make_node("TopK", [values, count], names, name=names[0], largest=0, axis=-1)
        )
        return names[0], names[1]

    def _one_hot(self, places: str, numbers: str) -> str:
        """float[batch, row, count] of int64[batch, row]."""
        column = self._add("Unsqueeze", [places, self._ints(2)])
        return self._cast(self._add("Equal", [column, numbers]), "FLOAT")

    def _summed(self, column: str) -> str:
        """float[batch, left, 1] of float[batch, token, 1]: no product, which might be rounded."""
        row = self._add("Transpose", [column], perm=[0, 2, 1])
        return self._reduced("ReduceSum", self._add("Mul", [self._parts, row]), 2, keep=True)

    def _taken(self, values: str, places: str, axis: int = 1) -> str:
        return self._add("Gather", [values, places], axis=axis)

    def _change(self, place: Place, mass: str) -> None:
        node = self._view.nodes[place.node]
        given = node.input[place.slot]
        if place.kind in ("bias", "weight"):
            node.input[place.slot] = self._instead[given]
        elif place.kind == "softmax":
            row = self._row(self._add("Unsqueeze", [mass, self._ints(2)]))
            node.input[place.slot] = self._add("Add", [given, row])
        elif place.kind == "mean":
            self._weigh(node, mass)
        else:
            node.input[place.slot] = self._shape(node, place)

    def _weigh(self, node: NodeProto, mass: str) -> None:
        """Make of a mean over all tokens a sum in which each has its share."""
        from onnx import helper

        share = self._add("Div", [mass, self._reduced("ReduceSum", mass, 1, keep=True)])
        column = self._add("Unsqueeze", [share, self._ints(2)])
        weighed = self._add("Mul", [self._renamed(node.input[0]), column])
        keepdims = attribute(node, "keepdims", 1)
        del node.input[:], node.attribute[:]
        node.op_type = "ReduceSum"
        node.input.extend([weighed, self._ints(1)])
        node.attribute.append(helper.make_attribute("keepdims", keepdims))

    def _shape(self, node: NodeProto, place: Place) -> str:
        """The shape that a Reshape takes, its tokens left to be counted."""
        sizes, before = (self._view.shapes[name] for name in (node.output[0], node.input[0]))
        data = self._renamed(node.input[0])
        parts = [self._count(data, self._axis_of(before, sizes, place.axis))]
        if place.axis == 1 and before[0] == sizes[0]:
            parts.insert(0, self._count(data, 0))  # the batch
        else:
            parts.insert(0, self._cut(node.input[place.slot], 0, place.axis))
        # What is behind the tokens is known, or they would not have been followed through here.
        parts.append(self._ints(*(int(size or 1) for size in sizes[place.axis + 1 :])))
        return self._add("Concat", parts, axis=0)

    @staticmethod
    def _axis_of(before: Sequence[int | None], after: Sequence[int | None], axis: int) -> int:
        """Where in the input the token dimension lies that the output has at `axis`."""
        behind = math.prod(size or 1 for size in after[axis + 1 :])
        sizes = (math.prod(size or 1 for size in before[at + 1 :]) for at in range(len(before)))
        return max(at for at, size in enumerate(sizes) if size == behind)

    def _renamed(self, name: str) -> str:
        return f"{self._prefix}joined" if name == self._tensor else name

    def _side(self, place: Place) -> str:
        return str(self._view.nodes[place.node].input[place.slot])

    def _cut(self, name: str, start: int, end: int) -> str:
        return self._add("Slice", [name, self._ints(start), self._ints(end)])

    def _count(self, name: str, axis: int) -> str:
        """int64[1]: the size of a dimension."""
        return self._add("Shape", [name], start=axis, end=axis + 1)

    def _range(self, start: int, stop: str, step: int) -> str:
        """int64[·] from `start` on, below the one number in `stop`."""
        end = self._add("Squeeze", [stop, self._ints(0)])
        return self._add("Range", [self._int(start), end, self._int(step)])

    def _reduced(self, kind: str, name: str, axis: int, *, keep: bool = False) -> str:
        keepdims = int(keep)
        if kind == "ReduceSum" or self._view.opset >= 18:
            return self._add(kind, [name, self._ints(axis)], keepdims=keepdims)
        return self._add(kind, [name], axes=[axis], keepdims=keepdims)

    def _cast(self, name: str, kind: str) -> str:
        from onnx import TensorProto

        return self._add("Cast", [name], to=getattr(TensorProto, kind))

    def _ints(self, *values: int) -> str:
        return self._constant("i" + "_".join(map(str, values)), np.array(values, np.int64))

    def _int(self, value: int) -> str:
        return self._constant(f"n{value}", np.array(value, np.int64))

    def _floats(self, value: float) -> str:
        return self._constant(f"f{value:g}", np.array(value, np.float32))

    def _constant(self, name: str, value: np.ndarray) -> str:
        self._constants[self._prefix + name] = value
        return self._prefix + name

    def _add(
        self, kind: str, inputs: Sequence[str], output: str | None = None, **attributes: Any
    ) -> str:
        from onnx import helper

        name = self._prefix + (output or f"{kind}{len(self._nodes)}")
        self._nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def _write(self) -> None:
        """Put what was made into the graph, each node behind all that it reads."""
        from onnx import numpy_helper

        graph = self._proto.graph
        graph.initializer.extend(
            numpy_helper.from_array(value, name) for name, value in self._constants.items()
        )
        made = {name for node in (*graph.node, *self._nodes) for name in node.output}
        waiting, ordered, there = [*graph.node, *self._nodes], [], set[str]()
        while waiting:
            left = []
            for node in waiting:
                if all(name in there or name not in made for name in node.input):
                    there.update(node.output)
                    ordered.append(node)
                else:
                    left.append(node)
            if len(left) == len(waiting):
                raise AssertionError("the merged graph has a cycle")
            waiting = left
        copied = [type(node).FromString(node.SerializeToString()) for node in ordered]
        del graph.node[:]
        graph.node.extend(copied)
        graph.ClearField("value_info")  # inferred for all tokens

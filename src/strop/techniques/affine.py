"""Scales and shifts of whole channels, folded into the convolutions before and behind them.

Networks made for training speed put a learnt number before and behind each activation (the
learnable affine blocks of PP-LCNetV3, say). ONNX Runtime folds a scale that has one number a
channel into the convolution before it; one that is a single number it keeps, and any that stands in
front of a convolution. Each costs a pass over the whole tensor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from strop.techniques.onnx_view import GraphView, attribute

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

_SMALLEST = 1e-4
"""Scales below this are not divided by: a shift behind them would grow beyond measure."""


@dataclass(frozen=True)
class _Affine:
    """``scale * x + shift``, each float64[1] or float64[channels]."""

    source: str
    scale: np.ndarray
    shift: np.ndarray


def fold_affine(model: ModelProto) -> None:
    """Fold scales and shifts by constants into the weights of convolutions, in place.

    Behind a convolution both go into its weights and bias. In front of one a scale goes into its
    weights, and a shift into its bias where nothing is padded: zeros of the padding are not
    shifted. Where they are, ``scale * x + shift`` becomes ``x + shift / scale``.
    """
    view = GraphView(model)
    _ = view.shapes  # inferred from the graph as it is now
    convolutions = {
        node.name: found
        for node in view.nodes.values()
        if (found := _Convolution.of(view, node)) is not None
    }
    gone: set[str] = set()
    for one in convolutions.values():
        _fold_behind(view, one, gone)
    for one in convolutions.values():
        _fold_in_front(model, view, convolutions, one.node.input[0], gone)
    for one in convolutions.values():
        one.write(model)
    kept = [node for node in model.graph.node if node.name not in gone]
    del model.graph.node[:]
    model.graph.node.extend(kept)


class _Convolution:
    """A Conv whose weights are constants, and what they become."""

    def __init__(self, node: NodeProto, weight: np.ndarray, bias: np.ndarray | None) -> None:
        self.node = node
        # Both become float64 with the first thing that is folded into them.
        self.weight = weight
        self.bias = np.zeros(len(weight)) if bias is None else bias
        self.group = int(attribute(node, "group", 1))
        self.channels = weight.shape[1] * self.group
        self.changed = False

    @classmethod
    def of(cls, view: GraphView, node: NodeProto) -> _Convolution | None:
        if node.op_type != "Conv":
            return None
        weight = view.constant(node.input[1])
        biased = len(node.input) > 2 and bool(node.input[2])
        bias = view.constant(node.input[2]) if biased else None
        if weight is None or weight.dtype != np.float32 or (biased and bias is None):
            return None
        return cls(node, weight, bias)

    @property
    def padded(self) -> bool:
        pads = attribute(self.node, "pads", ())
        automatic = attribute(self.node, "auto_pad", b"NOTSET")
        return any(pads) or automatic not in (b"NOTSET", b"VALID")

    def behind(self, found: _Affine) -> None:
        """Take on what is done to the outputs."""
        self.weight = self.weight * found.scale.reshape(-1, *[1] * (self.weight.ndim - 1))
        self.bias = self.bias * found.scale + found.shift
        self.changed = True

    def in_front(self, found: _Affine) -> None:
        """Take on what is done to the inputs; nothing that is shifted may be padded."""
        inputs = self.weight.shape[1]
        shape = (self.group, 1, inputs, *[1] * (self.weight.ndim - 2))
        scale, shift = (
            np.broadcast_to(value, self.channels).reshape(shape)
            for value in (found.scale, found.shift)
        )
        grouped = self.weight.reshape(self.group, -1, *self.weight.shape[1:])
        self.bias = self.bias + (grouped * shift).sum(axis=tuple(range(2, grouped.ndim))).ravel()
        self.weight = (grouped * scale).reshape(self.weight.shape)
        self.changed = True

    def write(self, model: ModelProto) -> None:
        if not self.changed:
            return
        parts = {"weight": self.weight, "bias": self.bias}
        names = [_store(model, f"{self.node.name}:{part}", value) for part, value in parts.items()]
        source = self.node.input[0]
        del self.node.input[:]
        self.node.input.extend([source, *names])


def _fold_behind(view: GraphView, one: _Convolution, gone: set[str]) -> None:
    rank, channels = one.weight.ndim, len(one.weight)
    while (node := view.sole_consumer(one.node.output[0])) is not None:
        found = _affine(view, node, rank, channels)
        if found is None or found.source != one.node.output[0]:
            return
        one.behind(found)
        one.node.output[0] = node.output[0]
        gone.add(node.name)


def _fold_in_front(
    model: ModelProto,
    view: GraphView,
    convolutions: dict[str, _Convolution],
    tensor: str,
    gone: set[str],
) -> None:
    """Fold what makes `tensor` into all that read it, if all of them are such convolutions."""
    while (node := view.nodes.get(view.producer.get(tensor, ""))) is not None:
        readers = [convolutions.get(name) for name in view.consumers.get(tensor, ())]
        if node.name in gone or not view.is_private(tensor) or None in readers:
            return
        known = [reader for reader in readers if reader is not None]
        if any(list(reader.node.input).count(tensor) != 1 for reader in known):
            return
        rank, channels = known[0].weight.ndim, known[0].channels
        found = _affine(view, node, rank, channels)
        if found is None or not _has_shape(view, found.source, rank, channels):
            return
        if found.shift.any() and any(reader.padded for reader in known):
            _swap(model, view, known, node, found, gone)
            return
        for reader in known:
            reader.in_front(found)
            reader.node.input[0] = found.source
        gone.add(node.name)
        # From here on the convolutions read what the folded node read.
        last = view.sole_consumer(found.source)
        if last is None or last.name != node.name:
            return
        view.consumers[found.source] = [reader.node.name for reader in known]
        tensor = found.source


def _swap(
    model: ModelProto,
    view: GraphView,
    readers: list[_Convolution],
    add: NodeProto,
    shift: _Affine,
    gone: set[str],
) -> None:
    """``scale * x + shift`` to ``x + shift / scale``, the scale into the convolutions."""
    rank, channels = readers[0].weight.ndim, readers[0].channels
    node = view.nodes.get(view.producer.get(shift.source, ""))
    reader = view.sole_consumer(shift.source)
    if node is None or node.name in gone or reader is None or reader.name != add.name:
        return
    found = _affine(view, node, rank, channels)
    if found is None or found.shift.any() or not _has_shape(view, found.source, rank, channels):
        return
    if (shift.scale != 1).any() or np.abs(found.scale).min() < _SMALLEST:
        return
    value = shift.shift / found.scale
    value = value.reshape(-1, *[1] * (rank - 2)) if value.size > 1 else value
    name = _store(model, f"{add.name}:shift", value)
    add.op_type = "Add"
    del add.input[:]
    add.input.extend([found.source, name])
    scale = _Affine(found.source, found.scale, np.zeros(1))
    for one in readers:
        one.in_front(scale)
    gone.add(node.name)


def _store(model: ModelProto, name: str, value: np.ndarray) -> str:
    """Add a float32 constant; the name that it got, which is new where `name` is taken."""
    from onnx import numpy_helper

    taken = {entry.name for entry in model.graph.initializer}
    while name in taken:
        name += "'"
    model.graph.initializer.append(numpy_helper.from_array(value.astype(np.float32), name))
    return name


def _affine(view: GraphView, node: NodeProto, rank: int, channels: int) -> _Affine | None:
    """What the node does to each channel; None where it is anything else."""
    if node.op_type not in ("Mul", "Div", "Add", "Sub") or len(node.input) != 2:
        return None
    constants = [view.constant(name) for name in node.input]
    place = next((place for place, value in enumerate(constants) if value is not None), None)
    constant = None if place is None else constants[place]
    if constant is None or constants[1 - (place or 0)] is not None:
        return None
    value = _by_channel(constant, rank, channels)
    if value is None or (node.op_type == "Div" and (place == 0 or not value.all())):
        return None
    source, one, none = node.input[1 - (place or 0)], np.ones(1), np.zeros(1)
    if node.op_type == "Mul":
        return _Affine(source, value, none)
    if node.op_type == "Div":
        return _Affine(source, 1 / value, none)
    if node.op_type == "Add":
        return _Affine(source, one, value)
    return _Affine(source, one, -value) if place == 1 else _Affine(source, -one, value)


def _by_channel(constant: np.ndarray, rank: int, channels: int) -> np.ndarray | None:
    """The constant as float64[1] or float64[channels]; None where it varies along other axes."""
    if constant.dtype != np.float32 or constant.ndim > rank or not np.isfinite(constant).all():
        return None
    shape = (1,) * (rank - constant.ndim) + constant.shape
    if constant.size != 1 and (shape[1] != channels or constant.size != channels):
        return None
    return constant.astype(np.float64).ravel()


def _has_shape(view: GraphView, name: str, rank: int, channels: int) -> bool:
    """Whether the tensor has these axes by itself, and not by what it is combined with."""
    shape = view.shapes.get(name, ())
    return len(shape) == rank and shape[1] == channels

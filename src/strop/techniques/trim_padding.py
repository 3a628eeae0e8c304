"""Padding removed inside the graph: no work is done on positions that no example uses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from strop.errors import ModelError, NotApplicable
from strop.models import graph
from strop.models.model import Model
from strop.models.parity import parity
from strop.models.runner import Runner
from strop.models.sample import random_inputs
from strop.records import Applicability, Choice, Dim, Signature, Space, Target, TensorSpec
from strop.techniques._base import Context, Technique

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

_BUCKETS = (16, 32, 64, 1)
_BOUND = 1e-3
"""Relative error (see `strop.models.parity`) above which the rewrite counts as wrong."""
_ROWS = 3
_PREFIX = "trim_padding/"
"""Begins the names of all that is inserted."""


class TrimPadding(Technique):
    """Inputs cut, batch by batch, to the longest example in the batch.

    Text models are fed token ids padded to one length, and compute the padding like the text. The
    rewritten graph reads from its mask how far the longest example reaches, slices every input
    that carries the length, and runs on what is left. Outputs that carry the length are padded
    back, so that the signature stays exactly as it was. A linear layer's work falls in proportion
    to the length, attention's with its square. Serving systems batch by length to this end
    (TurboTransformers, Fang et al., 2021, arXiv:2010.05680); here the graph does it on its own.

    The length of an example is the last position at which its mask is not 0. An example whose mask
    is 0 throughout counts as full, because what models make of it depends on the padding.

    Outputs without the length stay the same up to rounding. In those with it, everything past an
    example's own length is 0, whatever the other examples are (`batch_invariant`): there the
    original computes numbers that nobody reads, so `exact` is False.

    Whether the graph takes another length, and whether its mask means what it says (1 for a token,
    and padding does not leak into the answer), is found out by trying on seeded random inputs.

    Parameters of the space
    -----------------------
    bucket
        The length is rounded up to a multiple of this, at most the given length. 1 cuts exactly;
        more means fewer distinct shapes, for which engines plan anew each, and rounder ones.
    """

    name = "trim-padding"
    version = 1
    consumes = "onnx"
    produces = ("onnx",)
    packages = ("onnx", "onnxruntime")
    stage = 20

    def applies(self, model: Model, target: Target) -> Applicability:
        if "onnx" not in model.forms:
            return Applicability.no("needs an ONNX form")
        try:
            _padded(model.signature)
        except NotApplicable as error:
            return Applicability.no(error.message)
        proto = graph.read(model.forms["onnx"])
        if any(node.name.startswith(_PREFIX) for node in proto.graph.node):
            return Applicability.no("its padding is trimmed already")
        return Applicability.yes()

    def space(self, model: Model, target: Target) -> Space:
        length = _padded(model.signature).length
        values = tuple(b for b in _BUCKETS if not isinstance(length, int) or b < length)
        return Space(choices=(Choice(name="bucket", values=values),))

    def apply(self, model: Model, params: Mapping[str, Any], ctx: Context) -> Model:
        padded = _padded(model.signature)
        bucket: int = params["bucket"]
        arrays, lengths = _sample(model.signature, padded, bucket, ctx.seed)
        proto = graph.read(model.forms["onnx"])
        try:
            expected = Runner(proto).run(arrays)
        except ModelError as error:
            raise NotApplicable(f"does not run on random inputs: {error.message}") from error
        _cut(proto, padded, bucket)
        given = arrays[padded.mask].shape
        restored = _changed(expected, _try(proto, arrays), given)
        for name in restored:
            _restore(proto, name, expected[name].ndim)
        _verify(expected, _try(proto, arrays), restored, np.arange(given[1]) < lengths[:, None])
        ctx.emit(f"cuts {', '.join(padded.inputs)} to the mask, in steps of {bucket}")
        graph.write(graph.infer_shapes(proto), ctx.workdir / "onnx" / "model.onnx")
        facts = {"trimmed_inputs": list(padded.inputs), "restored_outputs": restored}
        return Model.seal(ctx.workdir, model.signature, meta={**model.meta, **facts})


@dataclass(frozen=True)
class _Padded:
    """The inputs that carry the padded length, the mask among them, at dimension 1."""

    mask: str
    inputs: tuple[str, ...]
    length: Dim


def _padded(signature: Signature) -> _Padded:
    """What there is to cut.

    Raises
    ------
    NotApplicable
        When there is no mask, or nothing beside it, that could be cut.
    """
    masks = [spec for spec in signature.inputs if _is_mask(spec)]
    if not masks:
        raise NotApplicable(
            "no integer or boolean input [batch, length] has a name that contains 'mask'"
        )
    if len(masks) > 1:
        found = ", ".join(f"'{spec.name}'" for spec in masks)
        raise NotApplicable(f"several inputs look like the mask: {found}")
    (mask,) = masks
    assert mask.shape is not None
    length = mask.shape[1]
    if isinstance(length, int) and length < 2:
        raise NotApplicable(f"mask '{mask.name}' has the fixed length {length}")
    names = []
    for spec in signature.inputs:
        axes = [axis for axis, dim in enumerate(spec.shape or ()) if dim == length]
        if 1 in axes:
            names.append(spec.name)
        # Two dimensions of one fixed or unknown size may be so by chance, two of one symbol not.
        if isinstance(length, str) and axes not in ([], [1]):
            raise NotApplicable(f"input {spec} carries the length at more than dimension 1")
    if names == [mask.name]:
        raise NotApplicable(f"no other input shares the length of mask '{mask.name}'")
    return _Padded(mask.name, tuple(names), length)


def _is_mask(spec: TensorSpec) -> bool:
    counts = spec.dtype == "bool" or spec.dtype.startswith(("int", "uint"))
    return "mask" in spec.name.lower() and counts and len(spec.shape or ()) == 2


def _sample(
    signature: Signature, padded: _Padded, bucket: int, seed: int
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Random inputs with trailing zeros in the mask, and each row's length.

    The longest row, rounded up, is shorter than what is given: there is something to cut.
    """
    given = padded.length if isinstance(padded.length, int) else bucket + 16
    if given <= bucket:
        raise NotApplicable(f"the length {given} is not above the bucket of {bucket}")
    specs = {spec.name: spec for spec in signature.inputs}
    shapes = {
        name: [given if axis == 1 else 1 for axis in range(len(specs[name].shape or ()))]
        for name in padded.inputs
    }
    arrays = random_inputs(signature, rows=_ROWS, shapes=shapes, seed=seed)
    mask = arrays[padded.mask]
    longest = min((given - 1) // bucket * bucket, given // 2 + 1)
    lengths = np.resize([longest, max(longest // 2, 1)], len(mask))
    mask[:] = np.arange(given) < lengths[:, None]
    return arrays, lengths


def _cut(proto: ModelProto, padded: _Padded, bucket: int) -> None:
    """Let all that reads the inputs read the cut ones instead."""
    nodes, constants = _measure(padded.mask, bucket, graph.default_opset(proto))
    for name in padded.inputs:
        nodes.append(_node("Slice", ["starts", "length", "axes"], f"cut/{name}", of=name))
    _read_instead(proto, {name: _own(f"cut/{name}") for name in padded.inputs})
    body = list(proto.graph.node)
    del proto.graph.node[:]
    proto.graph.node.extend([*nodes, *body])
    proto.graph.initializer.extend(constants)
    for part in graph.graphs(proto.graph):
        part.ClearField("value_info")  # inferred for the given length


def _measure(mask: str, bucket: int, opset: int) -> tuple[list[NodeProto], list[TensorProto]]:
    """Nodes that compute, all int64: ``given[1]``, ``length[1]``, ``lengths[batch, 1]``."""
    from onnx import TensorProto, numpy_helper

    integers = {
        "zero": 0,
        "one": 1,
        "starts": [0],
        "axes": [1],
        "bucket": [bucket],
        "up": [bucket - 1],
    }
    constants = [
        numpy_helper.from_array(np.array(value, np.int64), _own(name))
        for name, value in integers.items()
    ]
    nodes = [
        _node("Shape", [], "given", of=mask, start=1, end=2),
        _node("Squeeze", ["given"], "last"),
        _node("Add", ["last", "one"], "stop"),
        _node("Range", ["one", "stop", "one"], "positions"),  # from 1, so that 0 is "nowhere"
        _node("Cast", [], "kept", of=mask, to=TensorProto.BOOL),
        _node("Where", ["kept", "positions", "zero"], "reached"),
        _maximum("reached", "furthest", 1, opset, constants),
        _node("Equal", ["furthest", "zero"], "empty"),
        _node("Where", ["empty", "given", "furthest"], "lengths"),
        _maximum("lengths", "longest", 0, opset, constants),
        _node("Squeeze", ["longest", "starts"], "needed"),
        _node("Add", ["needed", "up"], "raised"),
        _node("Div", ["raised", "bucket"], "buckets"),
        _node("Mul", ["buckets", "bucket"], "rounded"),
        _node("Min", ["rounded", "given"], "length"),
    ]
    return nodes, constants


def _maximum(
    source: str, result: str, axis: int, opset: int, constants: list[TensorProto]
) -> NodeProto:
    """The maximum along one dimension, which stays; its axis is an input from opset 18 on."""
    from onnx import numpy_helper

    if opset < 18:
        return _node("ReduceMax", [source], result, axes=[axis], keepdims=1)
    constants.append(numpy_helper.from_array(np.array([axis]), _own(f"{result}/axes")))
    return _node("ReduceMax", [source, f"{result}/axes"], result, keepdims=1)


def _restore(proto: ModelProto, name: str, rank: int) -> None:
    """Bring output `name` back to the given length, 0 past each example's own."""
    from onnx import helper, numpy_helper

    kind = next(v for v in proto.graph.output if v.name == name).type.tensor_type.elem_type
    end = np.zeros(2 * rank, np.int64)
    end[rank + 1] = 1  # of dimension 1
    out = f"restored/{name}"
    proto.graph.initializer.extend(
        [
            numpy_helper.from_array(end, _own(f"{out}/end")),
            numpy_helper.from_array(np.arange(2, rank), _own(f"{out}/inner")),
            helper.make_tensor(_own(f"{out}/zero"), kind, [], [0]),
        ]
    )
    for node in proto.graph.node:
        for index, output in enumerate(node.output):
            if output == name:
                node.output[index] = _own(f"{out}/cut")
    _read_instead(proto, {name: _own(f"{out}/cut")})
    pad = _node("Pad", [f"{out}/cleared", f"{out}/pads"], f"{out}/padded")
    pad.output[0] = name
    proto.graph.node.extend(
        [
            _node("Slice", ["positions", "starts", "length"], f"{out}/positions"),
            _node("LessOrEqual", [f"{out}/positions", "lengths"], f"{out}/reached"),
            _node("Unsqueeze", [f"{out}/reached", f"{out}/inner"], f"{out}/own"),
            _node("Where", [f"{out}/own", f"{out}/cut", f"{out}/zero"], f"{out}/cleared"),
            _node("Sub", ["given", "length"], f"{out}/missing"),
            _node("Mul", [f"{out}/missing", f"{out}/end"], f"{out}/pads"),
            pad,
        ]
    )


def _changed(
    expected: Mapping[str, np.ndarray], found: Mapping[str, np.ndarray], given: Sequence[int]
) -> list[str]:
    """The outputs that carry the length: those that came out shorter at dimension 1.

    Declared shapes would not do: a fixed length may equal another size by chance.
    """
    names = []
    for name, before in expected.items():
        after = found[name]
        if after.shape == before.shape:
            continue
        rest = (after.shape[:1] + after.shape[2:], before.shape[:1] + before.shape[2:])
        if before.shape[:2] != tuple(given) or rest[0] != rest[1]:
            raise NotApplicable(
                f"output '{name}' changes its shape with the length elsewhere than at dimension "
                f"1: from {list(before.shape)} to {list(after.shape)}"
            )
        names.append(name)
    return names


def _verify(
    expected: Mapping[str, np.ndarray],
    found: Mapping[str, np.ndarray],
    restored: Sequence[str],
    kept: np.ndarray,
) -> None:
    """Hold the outputs against the original's, those with the length at the kept positions.

    Raises
    ------
    NotApplicable
        When they differ.
    """
    wanted = dict(expected)
    for name in restored:
        valid = kept.reshape(kept.shape + (1,) * (expected[name].ndim - 2))
        wanted[name] = np.where(valid, expected[name], np.zeros((), expected[name].dtype))
    result = parity(wanted, found, bound=_BOUND)
    if not result.ok:
        raise NotApplicable(f"the padding takes part in the answer: without it, {result}")


def _try(proto: ModelProto, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    try:
        return Runner(proto).run(arrays)
    except ModelError as error:
        raise NotApplicable(f"the graph is made for one length: {error.message}") from error


def _read_instead(proto: ModelProto, names: Mapping[str, str]) -> None:
    """Let all nodes, also those in subgraphs, that read a tensor read another."""
    for node in graph.nodes(proto):
        if not node.name.startswith(_PREFIX):
            for index, name in enumerate(node.input):
                node.input[index] = names.get(name, name)


def _node(
    kind: str, inputs: Sequence[str], output: str, *, of: str | None = None, **attributes: Any
) -> NodeProto:
    """A node between inserted tensors; the first input may be a tensor `of` the model itself."""
    from onnx import helper

    names = ([] if of is None else [of]) + [_own(name) for name in inputs]
    return helper.make_node(kind, names, [_own(output)], name=_own(output), **attributes)


def _own(name: str) -> str:
    return _PREFIX + name

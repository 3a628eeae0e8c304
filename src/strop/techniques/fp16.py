"""Half precision: weights, or weights and arithmetic, in FP16."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from strop.errors import NotApplicable
from strop.models import graph
from strop.models.model import Model
from strop.records import Applicability, Choice, Space, Target
from strop.techniques._base import Context, Technique
from strop.techniques.calibration import watch
from strop.techniques.calibration_rows import Rows
from strop.techniques.onnx_view import GraphView, name_nodes

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

_ARITHMETIC = {"avx512_fp16", "amx_fp16", "asimdhp", "fp16"}
"""Instruction sets that compute in FP16."""
_SMALL = 256
"""Elements below which a weight stays FP32: there is no space to win."""
_SENSITIVE = frozenset(
    {"Softmax", "LogSoftmax", "Exp", "Log", "Pow", "Sqrt", "Reciprocal", "Erf", "CumSum", "Range"}
    | {"LayerNormalization", "GroupNormalization", "InstanceNormalization", "LpNormalization"}
    | {"MeanVarianceNormalization", "ReduceMean", "ReduceSum", "ReduceSumSquare", "ReduceProd"}
    | {"ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp"}
    | {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
    | {"Resize", "Upsample", "GridSample", "RoiAlign", "NonMaxSuppression", "TopK"}
)
"""Operators that stay FP32: they sum many terms or leave FP16's range (6e-8 to 65504), or their
order and positions hang on the last bits."""
_RANGE = np.finfo(np.float16)
_LOUDEST = float(_RANGE.max) / 2
"""Magnitude on the calibration rows from which a tensor stays FP32: other rows may be louder."""


class FP16(Technique):
    """FP16 as in mixed precision training (Micikevicius et al., 2018, arXiv:1710.03740).

    Constants that leave FP16's range stay FP32: with a value above 65504, or small tensors (an
    epsilon) with one below 6e-5. So do tensors, with the operators that read or write them, whose
    values come near FP16's greatest on the calibration rows. Inputs and outputs keep their types.

    Parameters of the space
    -----------------------
    weights_only
        True stores weights in FP16 with a Cast to FP32 behind: half the file, and arithmetic in
        FP32 as before (runtimes cast once, when they load). False computes in FP16 too, all but
        operators that overflow or sum up (Softmax, normalisations, Pow, means); only worth it
        where the device has FP16 arithmetic, so only tried there.
    """

    name = "fp16"
    version = 2
    consumes = "onnx"
    produces = ("onnx",)
    roles = ("calibrate",)
    packages = ("onnx", "onnxruntime")
    stage = 60

    def applies(self, model: Model, target: Target) -> Applicability:
        if "onnx" not in model.forms:
            return Applicability.no("needs an ONNX form")
        proto = graph.read(model.forms["onnx"])
        if graph.is_quantised(proto):
            return Applicability.no("already quantised")
        if not any(_is_candidate(tensor) for tensor in proto.graph.initializer):
            return Applicability.no(f"no float32 weight with {_SMALL} elements or more")
        return Applicability.yes()

    def space(self, model: Model, target: Target) -> Space:
        native = target.device != "cpu" or _ARITHMETIC.intersection(target.machine.isa)
        # Without FP16 arithmetic runtimes cast around every operator, which is slower than FP32.
        x86 = target.machine.architecture in ("x86_64", "AMD64")
        both = (True, False) if x86 and target.device == "cpu" else (False, True)
        return Space(choices=(Choice(name="weights_only", values=both if native else (True,)),))

    def apply(self, model: Model, params: Mapping[str, Any], ctx: Context) -> Model:
        proto = graph.read(model.forms["onnx"])
        unfit = [tensor.name for tensor in proto.graph.initializer if _leaves_range(tensor)]
        loud: list[str] = []
        if params["weights_only"]:
            count = _halve_weights(proto)
        else:
            loud = _loud_tensors(model, proto, ctx)
            count = _halve_nodes(proto, loud)
        if not count:
            raise NotApplicable("nothing can be FP16 without leaving its range")
        graph.write(graph.infer_shapes(proto), ctx.workdir / "onnx" / "model.onnx")
        facts = {"halved": count, "kept_fp32_weights": unfit, "kept_fp32_tensors": loud}
        return Model.seal(ctx.workdir, model.signature, meta={**model.meta, **facts})


def _halve_weights(proto: ModelProto) -> int:
    """Store weights in FP16, each with a Cast that makes the tensor of the old name."""
    from onnx import TensorProto, helper

    outputs = {value.name for value in proto.graph.output}
    casts = []
    for tensor in proto.graph.initializer:
        if not _is_candidate(tensor) or _leaves_range(tensor) or tensor.name in outputs:
            continue
        name = tensor.name
        tensor.CopyFrom(_half(tensor))
        casts.append(
            helper.make_node(
                "Cast", [tensor.name], [name], name=f"{name}:to_fp32", to=TensorProto.FLOAT
            )
        )
    _set_nodes(proto, [*casts, *proto.graph.node])
    return len(casts)


def _loud_tensors(model: Model, proto: ModelProto, ctx: Context) -> list[str]:
    """Tensors that FP16 could not hold on the calibration rows, or nearly not; sorted."""
    data = ctx.data.get("calibrate")
    too_large = proto.ByteSize() >= 2**31 - 1  # for one message, which is how they are watched
    if data is None or not len(data) or too_large or graph.custom_domains(proto):
        return []
    rows = Rows.of(model, data, ctx.seed)
    name_nodes(proto.graph)
    view = GraphView(proto)
    names = {
        name
        for node in proto.graph.node
        if (slots := _half_slots(view, node))
        for name in (
            *(node.input[i] for i in slots[0]),
            *(node.output[i] for i in slots[1]),
        )
        if name not in view.initializers and name not in view.captured
    }
    ctx.emit(f"watching {len(names)} tensors for what FP16 cannot hold")
    peaks = {name: _Peak() for name in sorted(names)}
    observers = {name: [peak] for name, peak in peaks.items()}
    watch(proto, observers, rows.batches, deadline=ctx.deadline)
    return [name for name, peak in peaks.items() if peak.value > _LOUDEST]


class _Peak:
    """The greatest finite magnitude of a tensor: FP16 has infinities of its own."""

    def __init__(self) -> None:
        self.value = 0.0

    def update(self, values: np.ndarray) -> None:
        sizes = np.abs(values[np.isfinite(values)])
        self.value = max(self.value, float(sizes.max(initial=0.0)))


def _halve_nodes(proto: ModelProto, loud: Sequence[str] = ()) -> int:
    """Let all nodes compute in FP16 that may and that touch none of the `loud` tensors.

    A tensor has up to two versions: its own name means FP32, ``name:fp16`` the half. Casts are put
    behind the producer of one version when a reader wants the other.
    """
    from onnx import TensorProto

    name_nodes(proto.graph)
    view = GraphView(proto)
    unfit = {t.name for t in proto.graph.initializer if _leaves_range(t)} | set(loud)
    chosen = {
        node.name: slots
        for node in proto.graph.node
        if (slots := _half_slots(view, node))
        and not unfit.intersection(node.input)
        and not unfit.intersection(node.output)
    }
    as_half = {
        node.input[i] for node in proto.graph.node for i in chosen.get(node.name, ((), ()))[0]
    }
    as_single = view.outputs | view.captured
    for node in proto.graph.node:
        halves = set(chosen.get(node.name, ((), ()))[0])
        as_single |= {name for i, name in enumerate(node.input) if i not in halves}
    nodes: list[NodeProto] = []
    for name in view.inputs:
        if name in as_half:
            nodes.append(_cast(name, _half_name(name), TensorProto.FLOAT16))
    for node in proto.graph.node:
        slots_in, slots_out = chosen.get(node.name, ((), ()))
        for i in slots_in:
            node.input[i] = _half_name(node.input[i])
        nodes.append(node)
        for i, name in enumerate(list(node.output)):
            if i in slots_out:
                node.output[i] = _half_name(name)
                if name in as_single:
                    nodes.append(_cast(_half_name(name), name, TensorProto.FLOAT))
            elif name in as_half:
                nodes.append(_cast(name, _half_name(name), TensorProto.FLOAT16))
    _set_nodes(proto, nodes)
    kept = [tensor for tensor in proto.graph.initializer if tensor.name in as_single]
    halved = [_half(t) for t in proto.graph.initializer if t.name in as_half]
    _set_initialisers(proto, [*kept, *halved])
    return len(chosen)


def _half_slots(view: GraphView, node: NodeProto) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """The input and output slots that turn FP16 when the node does; None when it must not."""
    import onnx

    if node.domain not in ("", "ai.onnx") or node.op_type in _SENSITIVE:
        return None
    bodies = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
    if any(attribute.type in bodies for attribute in node.attribute):
        return None
    schema = onnx.defs.get_schema(node.op_type, view.opset)
    free = {
        constraint.type_param_str
        for constraint in schema.type_constraints
        if {"tensor(float)", "tensor(float16)"} <= set(constraint.allowed_type_strs)
    }
    types: list[set[str]] = [set(), set()]
    slots: list[tuple[int, ...]] = []
    for side, (names, formals) in enumerate(
        ((node.input, schema.inputs), (node.output, schema.outputs))
    ):
        found = []
        for i, name in enumerate(names):
            if name not in view.floats:
                continue
            kind = formals[min(i, len(formals) - 1)].type_str
            types[side].add(kind)
            if kind in free:
                found.append(i)
        slots.append(tuple(found))
    # A float output of another type than the inputs' is decided by an attribute (Cast) or by the
    # operator itself; it would not follow.
    if not slots[0] or not slots[1] or not types[1] <= types[0] & free:
        return None
    return slots[0], slots[1]


def _is_candidate(tensor: TensorProto) -> bool:
    import onnx

    return tensor.data_type == onnx.TensorProto.FLOAT and int(np.prod(tensor.dims)) >= _SMALL


def _leaves_range(tensor: TensorProto) -> bool:
    """Whether FP16 cannot hold the values: too large anywhere, or too small in a small tensor.

    In a big weight values that become 0 do not matter; an epsilon that becomes 0 divides by it.
    """
    import onnx
    from onnx import numpy_helper

    if tensor.data_type != onnx.TensorProto.FLOAT:
        return False
    sizes = np.abs(numpy_helper.to_array(tensor))
    if not np.all(sizes <= _RANGE.max):  # NaN and infinities count as too large
        return True
    return not _is_candidate(tensor) and bool(np.any((sizes > 0) & (sizes < _RANGE.tiny)))


def _half(tensor: TensorProto) -> TensorProto:
    from onnx import numpy_helper

    values = numpy_helper.to_array(tensor).astype(np.float16)
    return numpy_helper.from_array(values, _half_name(tensor.name))


def _half_name(name: str) -> str:
    return f"{name}:fp16"


def _cast(source: str, result: str, kind: int) -> NodeProto:
    from onnx import helper

    return helper.make_node("Cast", [source], [result], name=f"{result}:cast", to=kind)


def _set_nodes(proto: ModelProto, nodes: list[NodeProto]) -> None:
    copies = list(_copies(nodes))
    del proto.graph.node[:]
    proto.graph.node.extend(copies)


def _set_initialisers(proto: ModelProto, tensors: list[TensorProto]) -> None:
    copies = list(_copies(tensors))
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(copies)


def _copies(messages: list[Any]) -> Iterator[Any]:
    """Clearing a repeated field frees its messages: copy them before."""
    for message in messages:
        copy = type(message)()
        copy.CopyFrom(message)
        yield copy

"""BF16 in most layers, FP32 in those that lose most by it: marks in an OpenVINO model."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from strop.errors import MissingExtra, NotApplicable
from strop.models import graph
from strop.models.convert import to_openvino
from strop.models.model import Model
from strop.records import Applicability, Choice, Space, Target
from strop.techniques._base import Context, Technique
from strop.techniques.calibration import sample_rows
from strop.techniques.fixed_batch import fixed_batch
from strop.techniques.onnx_view import GraphView, name_nodes
from strop.techniques.quantisable import Layer, find_layers
from strop.techniques.sensitivity import cached, layer_errors, rank_layers

if TYPE_CHECKING:
    from onnx import ModelProto

KEPT_IN_FLOAT = (0.1, 0.3)
"""Shares of the layers that are tried in FP32."""
_ISA = frozenset({"avx512_bf16", "amx_bf16"})
_COMPUTES = frozenset({"Convolution", "GroupConvolution", "MatMul"})
_CASTS_FROM_OPSET = 13
_ROWS = 16


class MixedBF16(Technique):
    """Keeps the most sensitive layers in FP32 where OpenVINO computes in BF16.

    OpenVINO's CPU plugin leaves a layer in FP32 under a BF16 hint where the IR marks it with the
    runtime attribute ``precise`` (`ov::DisableFP16Compression`; seen to hold in 2026.4). Which
    layers lose most is measured: each in turn reads its input and weights rounded to BF16, all
    others compute in FP32, and the error of the model's outputs is what it costs
    (`strop.techniques.sensitivity`). Sums are in FP32 either way, as in the hardware.

    Parameters of the space
    -----------------------
    keep_float
        Share of the layers kept in FP32. None of them is what the engine's ``precision=bf16``
        does by itself.
    """

    name = "bf16-mixed"
    version = 1
    consumes = "onnx"
    produces = ("openvino",)
    roles = ("calibrate",)
    packages = ("onnx", "onnxruntime", "openvino")
    stage = 60

    def applies(self, model: Model, target: Target) -> Applicability:
        if importlib.util.find_spec("openvino") is None:
            return Applicability.no(str(MissingExtra("openvino", extra="openvino")))
        if "onnx" not in model.forms:
            return Applicability.no("needs an ONNX form")
        if target.device != "cpu" or not _ISA & set(target.machine.isa):
            return Applicability.no(
                f"the device computes in BF16 only with {' or '.join(_names())}"
            )
        proto = graph.read(model.forms["onnx"])
        if graph.is_quantised(proto):
            return Applicability.no("already quantised")
        if graph.default_opset(proto) < _CASTS_FROM_OPSET:
            return Applicability.no(f"needs operator set {_CASTS_FROM_OPSET} to round to BF16")
        if len(_layers(proto)) < 2:
            return Applicability.no("fewer than two layers: there is nothing to mix")
        return Applicability.yes()

    def space(self, model: Model, target: Target) -> Space:
        count = len(_layers(graph.read(model.forms["onnx"])))
        # Shares that keep as many layers as a smaller share does say nothing new.
        kept = {_kept(share, count): share for share in reversed(KEPT_IN_FLOAT)}
        return Space(choices=(Choice(name="keep_float", values=tuple(sorted(kept.values()))),))

    def deploys(self, engine: str, options: Mapping[str, Any]) -> bool:
        return engine == "openvino" and options.get("precision") == "bf16"

    def apply(self, model: Model, params: Mapping[str, Any], ctx: Context) -> Model:
        proto = graph.read(model.forms["onnx"])
        name_nodes(proto.graph)
        layers = _layers(proto)
        data = ctx.data["calibrate"]
        fixed = fixed_batch(model.signature)
        rows = sample_rows(len(data), fixed or _ROWS, ctx.seed)
        if len(rows) < (fixed or 1):
            raise NotApplicable(f"there are {len(data)} rows to rank the layers on")
        key = _key(model.digest, data.digest, ctx.seed)

        def ranking() -> dict[str, Any]:
            ctx.emit(f"ranking {len(layers)} layers by what BF16 costs in each")
            names = {layer.name for layer in layers}
            errors = layer_errors(
                proto,
                layers,
                lambda keep: _rounded(proto, layers, names - set(keep)),
                data.inputs(rows),
                deadline=ctx.deadline,
            )
            return {"order": rank_layers(errors), "errors": errors}

        order = cached(ctx.workdir.parent / f"bf16-{key[:16]}.json", key, ranking)["order"]
        kept = set(order[: _kept(float(params["keep_float"]), len(layers))])
        converted = to_openvino(model, ctx.workdir)
        marked = _mark(converted.forms["openvino"], [it for it in layers if it.name in kept])
        return Model.seal(
            ctx.workdir, model.signature, meta={**model.meta, "kept_fp32_layers": marked}
        )


def _layers(proto: ModelProto) -> list[Layer]:
    name_nodes(proto.graph)
    return find_layers(GraphView(proto))


def _kept(share: float, count: int) -> int:
    return max(1, min(math.floor(share * count), count - 1))


def _names() -> list[str]:
    return sorted(_ISA)


def _rounded(proto: ModelProto, layers: Sequence[Layer], names: Collection[str]) -> ModelProto:
    """A copy in which the layers of these names read inputs and weights rounded to BF16."""
    from onnx import TensorProto, helper, numpy_helper

    copy = type(proto)()
    copy.CopyFrom(proto)
    view = GraphView(proto)
    nodes = {node.name: node for node in copy.graph.node}
    added: list[Any] = []
    for layer in layers:
        if layer.name not in names:
            continue
        node = nodes[layer.name]
        weight = view.constant(layer.weight)
        assert weight is not None  # `find_layers` takes no others
        rounded = f"{layer.name}/bf16_weight"
        copy.graph.initializer.append(numpy_helper.from_array(to_bf16(weight), rounded))
        low, back = f"{layer.name}/bf16", f"{layer.name}/bf16_input"
        added += [
            (node, helper.make_node("Cast", [layer.data], [low], to=TensorProto.BFLOAT16)),
            (node, helper.make_node("Cast", [low], [back], to=TensorProto.FLOAT)),
        ]
        node.input[0], node.input[1] = back, rounded
    before: dict[str, list[Any]] = {}
    for node, cast in added:
        before.setdefault(node.name, []).append(cast)
    ordered = [one for node in copy.graph.node for one in (*before.get(node.name, ()), node)]
    ordered = [type(node).FromString(node.SerializeToString()) for node in ordered]
    del copy.graph.node[:]
    copy.graph.node.extend(ordered)
    return copy


def to_bf16(values: np.ndarray) -> np.ndarray:
    """float32 values rounded to the nearest BF16, ties to even, as float32.

    Examples
    --------
    >>> to_bf16(np.float32([1.0, 1.001, 3.14159]))
    array([1.      , 1.      , 3.140625], dtype=float32)
    """
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
    return np.where(np.isfinite(values), rounded.view(np.float32), values)


def _mark(artifact: Path, layers: Sequence[Layer]) -> list[str]:
    """Mark in the IR the operators that compute the layers; names of the layers found.

    Raises
    ------
    NotApplicable
        When OpenVINO's conversion has merged one of them away.
    """
    tree = ElementTree.parse(artifact)
    elements = {it.attrib["id"]: it for it in tree.getroot().iterfind("./layers/layer")}
    sources: dict[str, list[str]] = {}
    for edge in tree.getroot().iterfind("./edges/edge"):
        sources.setdefault(edge.attrib["to-layer"], []).append(edge.attrib["from-layer"])
    makers = {
        name: number
        for number, element in elements.items()
        for port in element.iterfind("./output/port")
        for name in _split_names(port.attrib.get("names", ""))
    }
    for layer in layers:
        place = _computing(makers.get(layer.raw_output), elements, sources)
        if place is None:
            raise NotApplicable(f"OpenVINO's conversion holds no layer that makes '{layer.name}'")
        info = place.find("rt_info")
        if info is None:
            info = ElementTree.Element("rt_info")
            # The schema's order: data, rt_info, input, output.
            data = place.find("data")
            place.insert(0 if data is None else list(place).index(data) + 1, info)
        ElementTree.SubElement(info, "attribute", {"name": "precise", "version": "0"})
    tree.write(artifact, encoding="utf-8", xml_declaration=True)
    return [layer.name for layer in layers]


def _computing(
    number: str | None,
    elements: Mapping[str, ElementTree.Element],
    sources: Mapping[str, Sequence[str]],
) -> ElementTree.Element | None:
    """The convolution or product behind a tensor, where a bias or a reshape may stand between."""
    for _ in range(4):
        if number is None:
            return None
        if elements[number].attrib["type"] in _COMPUTES:
            return elements[number]
        behind = [it for it in sources.get(number, ()) if elements[it].attrib["type"] != "Const"]
        number = behind[0] if behind else None
    return None


def _split_names(text: str) -> list[str]:
    """Tensor names of a port: separated by commas, of which those inside a name are escaped."""
    names, name, escaped = [], "", False
    for letter in text:
        if escaped or letter not in "\\,":
            name, escaped = name + letter, False
        elif letter == "\\":
            escaped = True
        else:
            names.append(name)
            name = ""
    return [*names, name]


def _key(model: str, data: str, seed: int) -> str:
    text = json.dumps([MixedBF16.version, model, data, seed])
    return hashlib.sha256(text.encode()).hexdigest()

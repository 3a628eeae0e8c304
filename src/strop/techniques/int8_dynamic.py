"""Dynamic INT8: weights quantised beforehand, activations while the model runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from strop.errors import ModelError, NotApplicable
from strop.models import graph
from strop.models.facts import facts
from strop.models.model import Model
from strop.records import Applicability, Choice, Space, Target
from strop.techniques._base import Context, Technique
from strop.techniques.float_graph import float_graph

if TYPE_CHECKING:
    from onnx import ModelProto

_OPERATORS = ("MatMul", "Gemm", "LSTM")
_WORTHWHILE = 0.2
"""The share of the model's operations that must lie in layers which can be quantised."""


class DynamicINT8(Technique):
    """Matrix products in INT8 with activation ranges taken from each batch as it comes.

    ONNX Runtime's ``quantize_dynamic``: weights symmetric s8 (Jacob et al., 2018,
    arXiv:1712.05877), activations asymmetric u8 by DynamicQuantizeLinear, products by
    MatMulInteger (Gemm as MatMul and Add, LSTM as ONNX Runtime's own DynamicQuantizeLSTM). It needs
    no calibration data.

    Ranges are those of the whole batch, so that an example's outputs depend on its neighbours
    (`batch_invariant` is False). Convolutions are left alone: ConvInteger has no fast kernel.

    Parameters of the space
    -----------------------
    per_channel
        A scale for each output column of a weight instead of one for all.
    reduce_range
        Weights in 7 bits, for CPUs that add products of int8 in 16 bits (no VNNI), where 8 bits
        saturate; set by the target's instruction sets.
    """

    name = "int8-dynamic"
    version = 2
    consumes = "onnx"
    produces = ("onnx",)
    packages = ("onnxruntime", "onnx")
    batch_invariant = False
    stage = 60
    family = "int8"

    def applies(self, model: Model, target: Target) -> Applicability:
        proto = float_graph(model, target)
        if isinstance(proto, Applicability):
            return proto
        layers = _layers(proto)
        if not layers:
            return Applicability.no("no MatMul, Gemm or LSTM with constant weights")
        share = _share(proto, layers)
        if share < _WORTHWHILE:
            return Applicability.no(
                f"MatMul, Gemm and LSTM with constant weights are {share:.0%} of the operations"
            )
        return Applicability.yes()

    def space(self, model: Model, target: Target) -> Space:
        vnni = {"avx512_vnni", "avx_vnni", "amx_int8", "neon", "asimd"}
        saturates = not vnni.intersection(target.machine.isa)
        return Space(
            choices=(
                Choice(name="per_channel", values=(True, False)),
                Choice(name="reduce_range", values=(saturates,)),
            )
        )

    def apply(self, model: Model, params: Mapping[str, Any], ctx: Context) -> Model:
        from onnxruntime.quantization import QuantType, quantize_dynamic

        proto = graph.read(model.forms["onnx"])
        _prepare(proto)
        target = ctx.workdir / "onnx" / "model.onnx"
        target.parent.mkdir(parents=True)
        try:
            quantize_dynamic(
                proto,
                target,
                op_types_to_quantize=list(_OPERATORS),
                per_channel=params["per_channel"],
                reduce_range=params["reduce_range"],
                weight_type=QuantType.QInt8,
                use_external_data_format=graph.weight_bytes(proto) > graph.INLINE_LIMIT,
            )
        except MemoryError:
            raise
        except Exception as error:  # ONNX Runtime's quantiser raises whatever it comes upon
            raise NotApplicable(
                f"ONNX Runtime cannot quantise the model: {graph.first_line(error)}"
            ) from error
        quantised = graph.read(target)
        if not graph.is_quantised(quantised):
            raise NotApplicable("ONNX Runtime's quantiser finds nothing to quantise")
        for file in target.parent.iterdir():
            file.unlink()
        graph.write(quantised, target)
        return Model.seal(ctx.workdir, model.signature, meta={**model.meta, "quantised": True})


def _layers(proto: ModelProto) -> set[str]:
    """Names of the nodes that have constant weights and an integer kernel."""
    constant = {tensor.name for tensor in proto.graph.initializer}
    return {
        node.name
        for node in proto.graph.node
        if node.op_type in _OPERATORS and node.input[1] in constant
    }


def _share(proto: ModelProto, layers: set[str]) -> float:
    """The part of all operations that `layers` do; 1 where shapes do not tell."""
    try:
        found = facts(proto)
    except ModelError:
        return 1.0
    mine = [layer.flops for layer in found.layers if layer.name in layers]
    if None in mine:
        return 1.0
    part = sum(flops or 0 for flops in mine)
    return part / found.flops if found.flops else 1.0


def _prepare(proto: ModelProto) -> None:
    """Spare the quantiser what it stumbles over.

    It infers shapes itself and fails where those in the file contradict its own, as they do in
    plain torch exports; and it logs a warning unless the file says that it was preprocessed.
    """
    for inner in graph.graphs(proto.graph):
        inner.ClearField("value_info")
    entry = proto.metadata_props.add()
    entry.key, entry.value = "onnx.quant.pre_process", "onnxruntime.quant"

"""Static INT8 by NNCF, for OpenVINO."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from strop.data import Dataset
from strop.engines import quiet_telemetry
from strop.errors import MissingExtra, NotApplicable, StropError
from strop.models import graph
from strop.models.convert import number_nodes, read_network
from strop.models.model import Model
from strop.records import Applicability, Choice, Signature, Space, Target
from strop.techniques._base import Context, Technique
from strop.techniques.calibration import check_deadline
from strop.techniques.fixed_batch import fixed_batch
from strop.techniques.float_graph import float_graph
from strop.techniques.token_merging import PREFIX

if TYPE_CHECKING:
    from onnx import ModelProto

_LAYERS = ("Conv", "ConvTranspose", "MatMul", "Gemm", "LSTM", "GRU")
_TWO_SIDED = ("HardSwish", "Gelu", "Erf", "Elu", "Selu", "LeakyRelu", "PRelu", "Mish", "Tanh")


class NNCFINT8(Technique):
    """Post-training quantisation of weights and activations by NNCF's ``quantize``.

    NNCF (Kozlov et al., 2020, arXiv:2002.08679) places FakeQuantize where OpenVINO's integer
    kernels want them, takes the ranges from the calibration rows, and corrects the bias that
    rounding leaves (Nagel et al., 2019, arXiv:1906.04721). Transformers get its SmoothQuant (Xiao
    et al., 2023, arXiv:2211.10438) and its rules for attention besides.

    Each calibration row is an item of its own, or as many rows as a fixed batch demands, so that
    ranges do not depend on how rows are batched. All rows are used, in the order of the dataset;
    nothing in it is random.

    Parameters of the space
    -----------------------
    preset
        ``performance``: activations symmetric; ``mixed``: asymmetric, which costs a correction in
        every layer and pays where activations are lopsided (Swish, GELU).
    bias_correction
        How the mean error that rounding leaves in a layer's output is put right. ``full`` measures
        it on the layers before, quantised as they will be; ``fast`` takes each channel's mean for
        the whole channel, which goes wrong where borders or zeros make up much of it; ``none``.
    overflow_fix
        ``enable`` halves the range of the weights, for CPUs that add products of int8 in 16 bits
        (no VNNI); set by the target's instruction sets.
    """

    name = "int8-nncf"
    version = 1
    consumes = "onnx"
    produces = ("openvino",)
    roles = ("calibrate",)
    packages = ("nncf", "openvino")
    stage = 60
    family = "int8"

    def applies(self, model: Model, target: Target) -> Applicability:
        for package in self.packages:
            if importlib.util.find_spec(package) is None:
                return Applicability.no(str(MissingExtra(package, extra="openvino")))
        proto = float_graph(model, target)
        if isinstance(proto, Applicability):
            return proto
        if not any(op in _LAYERS for op in graph.operators(proto)):
            return Applicability.no("no convolution, matrix product or recurrent layer to quantise")
        return Applicability.yes()

    def space(self, model: Model, target: Target) -> Space:
        proto = graph.read(model.forms["onnx"])
        found = graph.operators(proto)
        lopsided = any(op in found for op in _TWO_SIDED) or _has_swish(found)
        presets = ("mixed", "performance") if lopsided else ("performance", "mixed")
        # Through attention the full correction is slow and was seen to be worse than none.
        corrections = ("fast", "none") if has_attention(proto) else ("full", "none", "fast")
        fix = "disable" if _adds_in_32_bits(target.machine.isa) else "enable"
        return Space(
            choices=(
                Choice(name="preset", values=presets),
                Choice(name="bias_correction", values=corrections),
                Choice(name="overflow_fix", values=(fix,)),
            )
        )

    def apply(self, model: Model, params: Mapping[str, Any], ctx: Context) -> Model:
        quiet_telemetry()
        import nncf
        import openvino
        from nncf.quantization.advanced_parameters import (
            AdvancedQuantizationParameters,
            OverflowFix,
        )

        items = _Items(ctx.data["calibrate"], model.signature, ctx.deadline)
        attention = has_attention(graph.read(model.forms["onnx"]))
        ctx.emit(f"calibrating on {len(items)} batches")
        try:
            with _silence():
                # Not Core.read_model, which leaves biases behind a computed Reshape, where NNCF
                # finds none to correct.
                network = read_network(model.forms["onnx"])
                quantised = nncf.quantize(
                    network,
                    nncf.Dataset(items),
                    preset=nncf.QuantizationPreset(params["preset"]),
                    target_device=nncf.TargetDevice.CPU,
                    subset_size=len(items),
                    fast_bias_correction=params["bias_correction"] == "fast",
                    ignored_scope=nncf.IgnoredScope(patterns=[f"{PREFIX}.*"], validate=False),
                    model_type=nncf.ModelType.TRANSFORMER if attention else None,
                    advanced_parameters=AdvancedQuantizationParameters(
                        overflow_fix=OverflowFix(params["overflow_fix"]),
                        disable_bias_correction=params["bias_correction"] == "none",
                    ),
                )
        except (StropError, TimeoutError, MemoryError):
            raise
        except Exception as error:  # NNCF and OpenVINO raise whatever they come upon
            raise NotApplicable(
                f"NNCF cannot quantise the model: {graph.first_line(error)}"
            ) from error
        inserted = sum(op.get_type_name() == "FakeQuantize" for op in quantised.get_ops())
        if not inserted:
            raise NotApplicable("NNCF finds nothing to quantise")
        _keep_names(quantised, model.signature)
        number_nodes(quantised)
        artifact = ctx.workdir / "openvino" / "model.xml"
        artifact.parent.mkdir(parents=True)
        openvino.save_model(quantised, artifact, compress_to_fp16=False)
        return Model.seal(
            ctx.workdir,
            model.signature,
            meta={
                **model.meta,
                "quantised": True,
                "fake_quantize": inserted,
                "calibration_rows": items.rows,
                "model_type": "transformer" if attention else None,
            },
        )


def has_attention(proto: ModelProto) -> bool:
    """Whether a Softmax's output goes into a MatMul, directly or through a node that only moves,
    masks or casts it.
    """
    through = ("Cast", "Dropout", "Identity", "Where", "Reshape", "Transpose", "Unsqueeze")
    weights: set[str] = set()
    for node in proto.graph.node:
        if node.op_type == "Attention":
            return True
        if node.op_type == "Softmax":
            weights.update(node.output)
        elif node.op_type == "MatMul" and weights.intersection(node.input):
            return True
        elif node.op_type in through and weights.intersection(node.input):
            weights.update(node.output)
    return False


class _Items:
    """Calibration rows as NNCF reads them: any number of passes, one item at a time."""

    def __init__(self, data: Dataset, signature: Signature, deadline: float | None) -> None:
        self._data = data
        self._deadline = deadline
        # Ranges are averaged over items: with several rows in one, they would depend on the batch.
        self._size = fixed_batch(signature) or 1
        if not len(self):
            raise NotApplicable(
                f"the model has a fixed batch of {self._size}, "
                f"but there are {len(data)} rows to calibrate on"
            )

    @property
    def rows(self) -> int:
        """How many rows are used: those left over from a fixed batch are not."""
        return len(self) * self._size

    def __len__(self) -> int:
        return len(self._data) // self._size

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        for rows, inputs in self._data.batches(self._size):
            check_deadline(self._deadline)
            if len(rows) == self._size:
                yield dict(inputs)


def _adds_in_32_bits(isa: tuple[str, ...]) -> bool:
    """Whether products of int8 cannot saturate on the way into the sum.

    x86 without VNNI adds pairs of u8·s8 products in 16 bits (vpmaddubsw); ARM has no such step.
    """
    return bool({"avx512_vnni", "avx_vnni", "amx_int8", "neon", "asimd"} & set(isa))


def _has_swish(operators: Mapping[str, int]) -> bool:
    """Whether products may be Swish or its hard kin: a gate's operator and as many products."""
    gates = operators.get("Sigmoid", 0) + operators.get("HardSigmoid", 0)
    return 0 < gates <= operators.get("Mul", 0)


def _keep_names(network: Any, signature: Signature) -> None:
    """Make each input and output answer to its name in the signature; the order is the ONNX's."""
    ports = (*network.inputs, *network.outputs)
    names = (*signature.input_names, *signature.output_names)
    if len(ports) != len(names):
        raise NotApplicable(
            f"OpenVINO's conversion has {len(ports)} tensors for {len(names)} names"
        )
    for port, name in zip(ports, names, strict=True):
        if name not in port.get_names():
            port.get_tensor().add_names({name})


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep NNCF's log and its progress bars from standard output, which is ours."""
    logger = logging.getLogger("nncf")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)

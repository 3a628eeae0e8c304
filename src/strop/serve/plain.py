"""A model file without a bundle: which engine opens it, and its signature."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from strop import engines
from strop.errors import InputError
from strop.records import Dim, Placement, SessionSpec, Signature, TensorSpec

ENGINES = {".onnx": "onnxruntime", ".xml": "openvino", ".tflite": "litert"}
"""What opens a file, by its suffix."""


def plain_spec(path: Path, threads: int, streams: int) -> SessionSpec:
    """What opens a plain ONNX, OpenVINO or `.tflite` file with its engine's own defaults.

    Raises
    ------
    InputError
        When the file is of another kind, is missing, or cannot be read as a model.
    """
    engine = ENGINES.get(path.suffix.lower())
    if engine is None:
        raise InputError(
            f"'{path}' is no bundle, ONNX file, OpenVINO .xml or .tflite",
            hint="optimise the model with strop optimize, or export it to ONNX",
        )
    if not path.is_file():
        raise InputError(f"'{path}' does not exist")
    available = engines.get(engine).available()
    if not available:
        raise InputError(f"the engine '{engine}' cannot run: {available.reason}")
    return SessionSpec(
        engine=engine,
        artifact=str(path),
        signature=_SIGNATURES[engine](path),
        options=quiet_options(engine, {}),
        placement=Placement(threads=threads, streams=streams),
    )


def quiet_options(engine: str, options: dict[str, object]) -> dict[str, object]:
    """The options, with idle engine threads asleep where the engine lets them busy-wait.

    A thread that spins between batches takes the core that the event loop needs to bring the next
    batch; alone on a machine it answers sooner, which is why engines spin by default.
    """
    if "spinning" in engines.get(engine).exact_options:
        return {**options, "spinning": False}
    return options


def _onnx_signature(path: Path) -> Signature:
    from strop.models import graph

    proto = graph.read(path)
    if any(not value.type.tensor_type.HasField("shape") for value in proto.graph.output):
        proto = graph.infer_shapes(proto)
    return graph.signature(proto)


def _openvino_signature(path: Path) -> Signature:
    engines.quiet_telemetry()
    import openvino

    try:
        network = openvino.Core().read_model(path)
    except RuntimeError as error:
        raise InputError(f"OpenVINO cannot read '{path.name}'") from error
    return Signature(
        inputs=tuple(_port(port) for port in network.inputs),
        outputs=tuple(_port(port) for port in network.outputs),
    )


def _tflite_signature(path: Path) -> Signature:
    from strop.models import tflite_file

    return tflite_file.read(path).signature


_SIGNATURES: dict[str, Callable[[Path], Signature]] = {
    "onnxruntime": _onnx_signature,
    "openvino": _openvino_signature,
    "litert": _tflite_signature,
}


def _port(port: object) -> TensorSpec:
    shape = port.get_partial_shape()  # type: ignore[attr-defined]
    dims: tuple[Dim, ...] | None = None
    if shape.rank.is_static:
        dims = tuple(dim.get_length() if dim.is_static else None for dim in shape)
    name = sorted(port.get_names())[0]  # type: ignore[attr-defined]
    kind = port.get_element_type().to_dtype().name  # type: ignore[attr-defined]
    return TensorSpec(name=name, dtype=kind, shape=dims)

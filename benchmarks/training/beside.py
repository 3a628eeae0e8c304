"""What a result is held against: other engines and tools on the same model, the same examples.

Sessions are timed in processes of their own, one running while the others stand stopped, so that
no engine's waiting threads take the processor from another (`strop.measure`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from strop import engines
from strop.bundle.layout import read_manifest
from strop.bundle.loader import session_spec
from strop.measure import granted_cpus, pair, screen, speedup
from strop.models import graph
from strop.models.model import Model
from strop.models.module_form import ModuleForm
from strop.records import Placement, SessionSpec, Signature

FLOAT = ("ONNX Runtime FP32", "OpenVINO FP32", "OpenVINO BF16")
_ROUNDS, _WARM_UP = 15, 1.5
_LAUNCHES = 8

Arrays = Mapping[str, np.ndarray]


def of_bundle(folder: Path) -> SessionSpec:
    """What opens a delivered bundle."""
    return session_spec(folder, read_manifest(folder), trust=True)


def of_onnx(path: Path, engine: str = "onnxruntime", **options: Any) -> SessionSpec:
    """An ONNX file, or the OpenVINO file that was made of one, with all granted cores."""
    return _spec(engine, path, graph.signature(graph.read(path)), options)


def of_module(factory: str, signature: Signature, folder: Path) -> SessionSpec:
    """PyTorch without a graph: ``file.py:callable``, called operator by operator."""
    path = folder / "eager" / "module.json"
    ModuleForm(
        spec=factory,
        live=False,
        inputs=signature.input_names,
        outputs=signature.output_names,
        keys=("output",),
        digest="",
    ).write(path)
    return _spec("torch", path, signature, {})


def floats(model: Path, folder: Path) -> dict[str, SessionSpec]:
    """The engines that run `model` without INT8, by :data:`FLOAT`'s names."""
    found = {FLOAT[0]: of_onnx(model)}
    engine = engines.get("openvino")
    if not engine.available():
        return found
    for name, precision in zip(FLOAT[1:], ("f32", "bf16"), strict=True):
        options = {"precision": precision, "shapes": "static"}
        found[name] = of_openvino(model, options, folder / precision)
    return found


def of_openvino(model: Path, options: Mapping[str, Any], folder: Path) -> SessionSpec:
    """An ONNX file that OpenVINO has compiled into `folder`."""
    artifact = _built("openvino", model, options, folder)
    return _spec("openvino", artifact, graph.signature(graph.read(model)), options)


def quantised(
    model: Path, calibration: Sequence[Arrays], folder: Path, *, transformer: bool
) -> dict[str, SessionSpec]:
    """What the stock tools make of `model` in INT8 without training."""
    signature = graph.signature(graph.read(model))
    folder.mkdir(parents=True, exist_ok=True)
    found = {}
    path = folder / "nncf.xml"
    if not path.exists():
        _nncf(model, calibration, path, transformer=transformer)
    for precision in ("bf16", "f32"):
        options = {"precision": precision, "shapes": "static"}
        found[f"NNCF, {precision} beside it"] = _spec("openvino", path, signature, options)
    if not transformer:
        return found  # rounding per call is for matrix products; it makes convolutions slower
    path = folder / "dynamic.onnx"
    if not path.exists():
        from onnxruntime.quantization import quantize_dynamic
        from onnxruntime.quantization.shape_inference import quant_pre_process

        ready = folder / "ready.onnx"
        quant_pre_process(model, ready, skip_symbolic_shape=True)
        quantize_dynamic(ready, path)
    found["ONNX Runtime dynamic INT8"] = _spec("onnxruntime", path, signature, {})
    return found


def floor(delivered: SessionSpec, folder: Path) -> SessionSpec:
    """The engine of `delivered` on a graph that only passes its first input on.

    How long that call takes is what no change of the network can save.
    """
    import onnx
    from onnx import TensorProto, helper

    spec = delivered.signature.inputs[0]
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(spec.dtype))
    assert kind != TensorProto.UNDEFINED
    given = helper.make_tensor_value_info(spec.name, kind, spec.shape)
    passed = helper.make_tensor_value_info("passed", kind, spec.shape)
    node = helper.make_node("Identity", [spec.name], ["passed"])
    plain = helper.make_model(
        helper.make_graph([node], "floor", [given], [passed]),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=10,
    )
    path = folder / "floor.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(plain, path)
    artifact = _built(delivered.engine, path, delivered.options, folder / delivered.engine)
    signature = graph.signature(graph.read(path))
    return delivered.model_copy(update={"artifact": str(artifact), "signature": signature})


def outputs(spec: SessionSpec, arrays: Arrays, *, batch: int = 50) -> np.ndarray:
    """The first output for all rows of `arrays`; the last batch is filled up with others."""
    session = engines.open_session(spec)
    name = spec.signature.output_names[0]
    count = len(next(iter(arrays.values())))
    parts = []
    try:
        for start in range(0, count, batch):
            rows = np.arange(start, start + batch) % count
            given = {key: array[rows] for key, array in arrays.items()}
            parts.append(np.array(session.run(given)[name]))
    finally:
        session.close()
    return np.concatenate(parts)[:count]


def seconds(specs: Mapping[str, SessionSpec], inputs: Arrays) -> dict[str, float]:
    """Median seconds of a call of each on one batch, in interleaved rounds."""
    found = screen(specs, inputs, rounds=_ROUNDS, warmup_seconds=_WARM_UP, most_alive=len(specs))
    for name, timing in found.items():
        if not len(timing.rounds):
            raise SystemExit(f"{name} could not be timed: {timing.error}")
    return {name: float(timing.seconds) for name, timing in found.items()}


def times_faster(rival: SessionSpec, mine: SessionSpec, inputs: Arrays) -> dict[str, float]:
    """The rival's time over mine with its 95% interval over fresh launches."""
    timing = pair(rival, mine, inputs, launches=_LAUNCHES, warmup_seconds=_WARM_UP)
    ratio = speedup(timing, "rival").ratio
    return {"ratio": ratio.estimate, "low": ratio.low, "high": ratio.high}


def _spec(engine: str, path: Path, signature: Signature, options: Mapping[str, Any]) -> SessionSpec:
    return SessionSpec(
        engine=engine,
        artifact=str(path.resolve()),
        signature=signature,
        options=dict(options),
        placement=Placement(threads=len(granted_cpus())),
    )


def _built(engine: str, model: Path, options: Mapping[str, Any], folder: Path) -> Path:
    """What `engine` makes of an ONNX file."""
    proto = graph.read(model)
    graph.write(proto, folder / "model" / "onnx" / "model.onnx")
    sealed = Model.seal(folder / "model", graph.signature(proto))
    made = folder / "built"
    made.mkdir(parents=True, exist_ok=True)
    return engines.get(engine).build(sealed, options, made)


def _nncf(model: Path, calibration: Sequence[Arrays], path: Path, *, transformer: bool) -> None:
    engines.quiet_telemetry()
    import nncf
    import openvino

    options = {"model_type": nncf.ModelType.TRANSFORMER} if transformer else {}
    network = openvino.Core().read_model(model)
    result = nncf.quantize(network, nncf.Dataset([dict(row) for row in calibration]), **options)
    openvino.save_model(result, path)

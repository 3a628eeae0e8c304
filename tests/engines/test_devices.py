"""Devices that are not here: what is said, and that nothing runs on the CPU in their place."""

import contextlib
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from strop import data, engines, techniques
from strop.engines import _cuda, onnxruntime_devices, openvino_devices
from strop.engines.onnxruntime_devices import assert_used, providers, serving
from strop.engines.openvino_devices import properties
from strop.errors import NotApplicable, StropError
from strop.models.model import Model
from strop.records import Placement, SessionSpec
from strop.techniques import Context
from strop.testing import graphs
from strop.testing.targets import target


def spec_on(device: str, engine: str, tmp_path: Path, **options: Any) -> SessionSpec:
    """A session of `graphs.linear` on a device; the artefact is what the CPU has as well."""
    model = graphs.linear().write(tmp_path / "model")
    (tmp_path / "artifact").mkdir()
    artifact = engines.get(engine).build(model, options, tmp_path / "artifact")
    return SessionSpec(
        engine=engine,
        artifact=str(artifact),
        signature=model.signature,
        options=options,
        placement=Placement(device=device),
    )


@pytest.fixture
def reports(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make ONNX Runtime report other providers than it has."""

    def report(*names: str) -> None:
        monkeypatch.setattr(onnxruntime_devices, "reported", lambda: names)

    return report


@pytest.mark.parametrize(
    ("engine", "device", "reason"),
    [
        ("onnxruntime", "cuda", "no provider for 'cuda'.*CPU only.*onnxruntime-gpu"),
        ("onnxruntime", "qnn", "no provider for 'qnn'"),
        ("onnxruntime", "azure", "no provider for 'azure'"),
        ("openvino", "npu", "sees no 'npu' here, only cpu"),
        ("openvino", "cuda", "cpu, gpu and npu, not on 'cuda'"),
    ],
)
def test_an_absent_device_is_refused_before_and_when_loading(
    engine: str, device: str, reason: str, tmp_path: Path
) -> None:
    if engine == "onnxruntime" and serving(device):
        pytest.skip(f"this ONNX Runtime has a provider for '{device}'")
    if engine == "openvino" and openvino_devices.present(device):
        pytest.skip(f"OpenVINO sees '{device}'")
    model = graphs.linear().write(tmp_path / "asked")
    answer = engines.get(engine).applies(model, target(device=device))
    assert not answer
    with pytest.raises(NotApplicable, match=reason):
        raise NotApplicable(answer.reason)
    with pytest.raises(NotApplicable, match=reason):
        engines.open_session(spec_on(device, engine, tmp_path))


def test_a_provider_that_takes_no_operator_is_not_taken_for_the_device(
    reports: Any, tmp_path: Path
) -> None:
    """Azure's provider starts in every installation and leaves the whole graph to the CPU."""
    import onnxruntime

    if "AzureExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has no provider that takes nothing")
    reports("Azure")
    with pytest.raises(NotApplicable, match=r"Azure takes none of the graph.*CPU"):
        engines.open_session(spec_on("azure", "onnxruntime", tmp_path))


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_provider_that_does_not_start_is_not_replaced_by_the_cpu(
    reports: Any, tmp_path: Path
) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("CUDA's provider is here")
    reports("CUDA")
    with pytest.raises(NotApplicable, match=r"CUDA does not start here.*run on CPU"):
        engines.open_session(spec_on("cuda", "onnxruntime", tmp_path))


def test_an_onnx_runtime_that_does_not_tell_is_not_believed() -> None:
    session = types.SimpleNamespace(get_providers=lambda: ["CUDAExecutionProvider"])
    with pytest.raises(NotApplicable, match="does not tell what runs on its provider CUDA"):
        assert_used(session, "CUDAExecutionProvider")


def test_a_provider_with_a_part_of_the_graph_is_used() -> None:
    class Session:
        def get_providers(self) -> list[str]:
            return ["QNNExecutionProvider", "CPUExecutionProvider"]

        def get_provider_graph_assignment_info(self) -> list[Any]:
            names = ("CPUExecutionProvider", "QNNExecutionProvider")
            return [types.SimpleNamespace(ep_name=name) for name in names]

    assert_used(Session(), "QNNExecutionProvider")


def test_a_first_run_that_fails_is_an_error_and_no_run_on_the_cpu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import onnxruntime

    def fail(self: Any, *given: Any) -> Any:
        raise RuntimeError("[ONNXRuntimeError] : 1 : FAIL : CUDA failure 2: out of memory")

    session = engines.open_session(spec_on("cpu", "onnxruntime", tmp_path))
    assert session._session._enable_fallback is False  # type: ignore[attr-defined]
    monkeypatch.setattr(onnxruntime.InferenceSession, "run", fail)
    with pytest.raises(StropError, match="ONNX Runtime failed: CUDA failure 2"):
        session.run(graphs.linear().inputs(1, 0))


def test_families_and_numbers_reach_the_providers(reports: Any) -> None:
    reports("Tensorrt", "CUDA", "Dml", "CoreML")
    assert serving("cuda:1") == ("CUDA", "Tensorrt")
    assert serving("tensorrt") == ("Tensorrt",)
    assert serving("directml") == ("Dml",)
    assert serving("coreml") == ("CoreML",)
    assert providers("cuda:1", None, tf32=False) == [
        ("CUDAExecutionProvider", {"device_id": "1", "use_tf32": "0"}),
        ("CPUExecutionProvider", {}),
    ]
    assert providers("cuda", "Tensorrt", tf32=False)[0] == ("TensorrtExecutionProvider", {})
    with pytest.raises(NotApplicable, match="no provider QNN for 'cuda'"):
        providers("cuda", "QNN", tf32=False)


def test_an_option_of_another_device_is_refused_and_not_passed_over(reports: Any) -> None:
    reports("Tensorrt", "CUDA")
    with pytest.raises(NotApplicable, match=r"the provider CUDA is for another device.*the CPU"):
        providers("cpu", "CUDA", tf32=False)
    with pytest.raises(NotApplicable, match="tf32 is for another device"):
        providers("cpu", None, tf32=True)
    with pytest.raises(
        NotApplicable, match="tf32 is an option of CUDA's provider, not of Tensorrt"
    ):
        providers("tensorrt", None, tf32=True)
    on_npu = Placement(device="npu")
    with pytest.raises(NotApplicable, match="an NPU computes in f16, and f32 was asked for"):
        properties({"precision": "f32"}, on_npu)
    assert properties({"precision": "f16"}, on_npu)


def test_only_what_keeps_fp32_is_exact_on_a_device(reports: Any, tmp_path: Path) -> None:
    reports("CUDA", "Tensorrt")
    model = graphs.linear().write(tmp_path / "model")
    engine = engines.get("onnxruntime")
    assert engine.applies(model, target(device="cuda"))
    grid = list(engine.space(model, target(device="cuda")).grid())
    assert [options["provider"] for options in grid] == ["CUDA", "Tensorrt"]
    assert [engine.is_exact(options) for options in grid] == [True, False]
    assert not engine.is_exact({"provider": "CUDA", "tf32": True})
    openvino = engines.get("openvino")
    on_npu = openvino.space(model, target(device="npu")).default
    assert on_npu["precision"] == "f16" and not openvino.is_exact(on_npu)
    assert openvino.is_exact(openvino.space(model, target(device="gpu")).default)


@pytest.mark.parametrize(
    ("device", "has", "lacks"),
    [
        ("cpu", {"NUM_STREAMS": 2, "INFERENCE_NUM_THREADS": 6}, "PERFORMANCE_HINT"),
        ("gpu:1", {"NUM_STREAMS": 2, "PERFORMANCE_HINT": "THROUGHPUT"}, "INFERENCE_NUM_THREADS"),
        ("npu", {"PERFORMANCE_HINT_NUM_REQUESTS": 2}, "NUM_STREAMS"),
    ],
)
def test_each_device_of_openvino_is_told_what_it_knows(
    device: str, has: dict[str, Any], lacks: str
) -> None:
    found = properties({}, Placement(device=device, threads=3, streams=2))
    assert has.items() <= found.items()
    assert lacks not in found


def test_the_hint_decides_nothing_where_streams_and_threads_are_named(tmp_path: Path) -> None:
    """Why OpenVINO's performance hint is not searched on the CPU."""
    spec = spec_on("cpu", "openvino", tmp_path)
    engines.quiet_telemetry()
    import openvino

    network = openvino.Core().read_model(spec.artifact)
    named = properties({}, Placement(threads=1, streams=2))
    found = []
    for hint in ("LATENCY", "THROUGHPUT"):
        compiled = openvino.compile_model(network, "CPU", {**named, "PERFORMANCE_HINT": hint})
        names = compiled.get_property("SUPPORTED_PROPERTIES")
        found.append({name: str(compiled.get_property(name)) for name in names})
    differing = {name for name, value in found[0].items() if value != found[1][name]}
    assert differing == {"PERFORMANCE_HINT"}


@pytest.mark.parametrize("engine", ["torch", "inductor"])
def test_pytorch_says_why_it_has_no_cuda(engine: str, tmp_path: Path) -> None:
    import torch

    if torch.version.cuda is not None:
        pytest.skip("this PyTorch has CUDA")
    model = graphs.linear().write(tmp_path)
    answer = engines.get(engine).applies(model, target(device="cuda:0"))
    assert not answer and "built without CUDA" in answer.reason
    with pytest.raises(NotApplicable, match="built without CUDA"):
        _cuda.prepare("cuda")


def test_pytorch_counts_its_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert _cuda.usable("cuda") and _cuda.usable("cuda:0")
    assert "sees 1 CUDA devices" in _cuda.usable("cuda:1").reason
    assert "'cudas'" in _cuda.usable("cudas").reason


def on_gpu(device: str, engine: str, tmp_path: Path) -> Model:
    """The network in the form that the engine takes; the test is skipped where no device is."""
    case = graphs.linear()
    model = case.write(tmp_path / "asked")
    if engine == "torch":
        (tmp_path / "module").mkdir()
        rows = data.read(case.inputs(8, 1), model.signature)
        context = Context(tmp_path / "module", target(), {"calibrate": rows})
        model = techniques.get("to-module").apply(model, {}, context)
    answer = engines.get(engine).applies(model, target(device=device))
    if not answer:
        pytest.skip(answer.reason)
    return model


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("engine", "device"),
    [
        ("onnxruntime", "cuda"),
        ("onnxruntime", "tensorrt"),
        ("torch", "cuda"),
        ("inductor", "cuda"),
        ("openvino", "gpu"),
        ("openvino", "npu"),
    ],
)
def test_a_device_that_is_here_gives_the_right_answer(
    engine: str, device: str, tmp_path: Path
) -> None:
    """With every setting of its space: what keeps FP32 to its rounding, the rest to FP16's."""
    model = on_gpu(device, engine, tmp_path)
    chosen = engines.get(engine)
    arrays = graphs.linear().inputs(5, 0)
    expected = graphs.linear().answer(arrays)["logits:0"]
    for number, options in enumerate(chosen.space(model, target(device=device)).grid()):
        folder = tmp_path / str(number)
        folder.mkdir()
        spec = SessionSpec(
            engine=engine,
            artifact=str(chosen.build(model, options, folder)),
            signature=model.signature,
            options=options,
            placement=Placement(device=device),
        )
        bound = 1e-5 if chosen.is_exact(options) else 1e-2
        with contextlib.closing(engines.open_session(spec)) as session:
            found = session.run(arrays)["logits:0"]
        np.testing.assert_allclose(found, expected, rtol=bound, atol=bound, err_msg=str(options))

import json
from pathlib import Path

import cloudpickle
import numpy as np
import pytest
import torch

from strop import engines
from strop.errors import InputError, StropError, TrustError
from strop.models.model import Model, ModuleSource
from strop.models.module_form import ModuleForm, build
from strop.records import Placement, SessionSpec, Signature, TensorSpec
from strop.testing import graphs
from strop.testing.engines import EngineConformance
from strop.testing.graphs import Case
from strop.testing.targets import target

MODULES = Path(__file__).with_name("modules.py")
KEYS = {
    "linear": ("logits:0",),
    "several": ("output", "output_1", "output_2"),
    "passthrough": ("same", "clipped"),
    "half": ("output",),
}


def write(case: Case, folder: Path, *, payload: bytes | None = None) -> Model:
    """The module of a case as a model without an ONNX form."""
    spec = None if payload else f"{MODULES}:{case.name.capitalize()}"
    form = ModuleForm(
        spec=spec,
        live=payload is not None,
        inputs=case.signature.input_names,
        outputs=case.signature.output_names,
        keys=KEYS[case.name],
        digest="0" * 64,
    )
    form.write(folder / "module" / "module.json")
    return Model.seal(folder, case.signature, source=ModuleSource(spec, payload))


def spec_of(artifact: Path, signature: Signature, **options: bool) -> SessionSpec:
    return SessionSpec(engine="torch", artifact=str(artifact), signature=signature, options=options)


class TestConformance(EngineConformance):
    engine = "torch"

    def write(self, case: Case, folder: Path) -> Model:
        return write(case, folder)


class TestLiveConformance(EngineConformance):
    """A module made in Python: it arrives as a pickle, not by its file."""

    engine = "torch"
    cases = (graphs.linear(), graphs.several())

    def write(self, case: Case, folder: Path) -> Model:
        module = build(f"{MODULES}:{case.name.capitalize()}")
        return write(case, folder, payload=cloudpickle.dumps(module))


def test_a_live_module_without_its_pickle_is_refused(tmp_path: Path) -> None:
    case = graphs.linear()
    model = write(case, tmp_path / "model", payload=cloudpickle.dumps(build(f"{MODULES}:Linear")))
    with pytest.raises(InputError, match=r"open_session\(spec, payload="):
        engines.open_session(spec_of(model.forms["module"], case.signature))


def test_a_payload_stays_with_one_session(tmp_path: Path) -> None:
    case = graphs.linear()
    payload = cloudpickle.dumps(build(f"{MODULES}:Linear"))
    model = write(case, tmp_path / "model", payload=payload)
    spec = spec_of(model.forms["module"], case.signature)
    engines.open_session(spec, payload=payload)
    with pytest.raises(InputError, match="made in Python"):
        engines.open_session(spec)


def test_an_exported_program_is_loaded_only_when_trusted(tmp_path: Path) -> None:
    case = graphs.half()
    program = torch.export.export(
        build(f"{MODULES}:Half"),
        (torch.ones(2, 4, dtype=torch.float16),),
        dynamic_shapes=({0: torch.export.Dim("n", min=1)},),
    )
    (tmp_path / "exported").mkdir()
    torch.export.save(program, tmp_path / "exported" / "model.pt2")
    model = Model.seal(tmp_path, case.signature)
    (tmp_path / "artifact").mkdir()
    artifact = engines.get("torch").build(model, {"trust": True}, tmp_path / "artifact")
    with pytest.raises(TrustError, match="--trust"):
        engines.open_session(spec_of(artifact, case.signature))
    session = engines.open_session(spec_of(artifact, case.signature, trust=True))
    arrays = case.inputs(5, 0)
    np.testing.assert_array_equal(session.run(arrays)["y"], case.answer(arrays)["y"])


def test_buffers_are_copied_and_failures_name_the_users_line(tmp_path: Path) -> None:
    signature = Signature(
        inputs=(TensorSpec(name="x", dtype="float32", shape=("n", 1)),),
        outputs=(TensorSpec(name="output", dtype="float32", shape=(1,)),),
    )
    form = ModuleForm(
        spec=f"{MODULES}:Counter",
        live=False,
        inputs=("x",),
        outputs=("output",),
        keys=("output",),
        digest="0" * 64,
    )
    form.write(tmp_path / "module.json")
    session = engines.open_session(spec_of(tmp_path / "module.json", signature))
    first = session.run({"x": np.zeros((1, 1), np.float32)})
    session.run({"x": np.zeros((1, 1), np.float32)})
    assert first["output"] == 1
    with pytest.raises(StropError, match=r"an empty batch.*modules\.py:\d+"):
        session.run({"x": np.zeros((0, 1), np.float32)})


def test_a_module_that_writes_into_its_input_leaves_the_callers_alone(tmp_path: Path) -> None:
    spec = TensorSpec(name="x", dtype="float32", shape=("n", 2))
    signature = Signature(inputs=(spec,), outputs=(spec.model_copy(update={"name": "output"}),))
    form = ModuleForm(
        spec=f"{MODULES}:InPlace",
        live=False,
        inputs=("x",),
        outputs=("output",),
        keys=("output",),
        digest="0" * 64,
    )
    form.write(tmp_path / "module.json")
    session = engines.open_session(spec_of(tmp_path / "module.json", signature))
    x = np.array([[-1, 2]], np.float32)
    for _ in range(3):
        np.testing.assert_array_equal(session.run({"x": x})["output"], [[0, 2]])
        np.testing.assert_array_equal(x, [[-1, 2]])


def test_bfloat16_crosses_the_border_bit_for_bit(tmp_path: Path) -> None:
    import ml_dtypes

    signature = Signature(
        inputs=(TensorSpec(name="x", dtype="bfloat16", shape=("n", 4)),),
        outputs=(TensorSpec(name="y", dtype="bfloat16", shape=("n", 4)),),
    )
    form = ModuleForm(
        spec=f"{MODULES}:Half",
        live=False,
        inputs=("x",),
        outputs=("y",),
        keys=("output",),
        digest="0" * 64,
    )
    form.write(tmp_path / "module.json")
    session = engines.open_session(spec_of(tmp_path / "module.json", signature))
    x = np.arange(8, dtype=np.float32).reshape(2, 4).astype(ml_dtypes.bfloat16)
    y = session.run({"x": x})["y"]
    assert y.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(y.astype(np.float32), x.astype(np.float32) / 2)


def test_threads_are_those_of_the_placement(tmp_path: Path) -> None:
    case = graphs.half()
    model = write(case, tmp_path / "model")
    before = torch.get_num_threads()
    try:
        spec = spec_of(model.forms["module"], case.signature)
        engines.open_session(spec.model_copy(update={"placement": Placement(threads=3)}))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_needs_a_module(tmp_path: Path) -> None:
    answer = engines.get("torch").applies(graphs.linear().write(tmp_path / "model"), target())
    assert not answer and "PyTorch module" in answer.reason


def test_a_damaged_module_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "module.json").write_text(json.dumps({"schema": 1}))
    with pytest.raises(InputError, match=r"module\.json"):
        engines.open_session(spec_of(tmp_path / "module.json", graphs.half().signature))

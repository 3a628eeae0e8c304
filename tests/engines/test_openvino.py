from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from strop import engines
from strop.engines.openvino import _openvino
from strop.engines.openvino_session import OpenVINOSession
from strop.errors import InputError, NotApplicable
from strop.models.model import Model
from strop.records import Placement, SessionSpec, Signature, TensorSpec
from strop.testing import graphs
from strop.testing.engines import EngineConformance
from strop.testing.targets import target

ENGINE = engines.get("openvino")


class TestConformance(EngineConformance):
    engine = "openvino"


class TestIRConformance(EngineConformance):
    """From OpenVINO's own form, as NNCF leaves it."""

    engine = "openvino"

    def write(self, case: graphs.Case, folder: Path) -> Model:
        source = case.write(folder / "source")
        (folder / "model" / "openvino").mkdir(parents=True)
        ENGINE.build(source, {}, folder / "model" / "openvino")
        return Model.seal(folder / "model", case.signature)


def load(model: Model, workdir: Path, placement: Placement, **options: object) -> engines.Session:
    workdir.mkdir()
    artifact = ENGINE.build(model, options, workdir)
    return engines.open_session(
        SessionSpec(
            engine="openvino",
            artifact=str(artifact),
            signature=model.signature,
            options=options,
            placement=placement,
        )
    )


def properties(session: engines.Session, *names: str) -> list[str]:
    assert isinstance(session, OpenVINOSession)
    assert session._shared is not None
    request = session._shared.get()
    compiled = request.get_compiled_model()
    session._shared.put(request)
    return [str(compiled.get_property(name)) for name in names]


def test_arithmetic_is_fp32_unless_asked_otherwise(tmp_path: Path) -> None:
    session = load(graphs.linear().write(tmp_path / "model"), tmp_path / "a", Placement())
    precision, group = properties(
        session, "INFERENCE_PRECISION_HINT", "DYNAMIC_QUANTIZATION_GROUP_SIZE"
    )
    assert "float32" in precision
    assert group == "0", "activations are not quantised on the fly"


@pytest.mark.parametrize(("threads", "streams"), [(1, 1), (2, 1), (1, 2)])
def test_placement_reaches_the_runtime(tmp_path: Path, threads: int, streams: int) -> None:
    placement = Placement(threads=threads, streams=streams)
    session = load(graphs.linear().write(tmp_path / "model"), tmp_path / "a", placement)
    found = properties(session, "INFERENCE_NUM_THREADS", "NUM_STREAMS", "ENABLE_CPU_PINNING")
    assert found == [str(threads * streams), str(streams), "False"]
    assert session.concurrency == streams


def test_bf16_is_offered_where_the_cpu_has_it_and_is_not_exact(tmp_path: Path) -> None:
    model = graphs.linear().write(tmp_path / "model")
    assert ENGINE.space(model, target()).choices[0].values == ("f32",)
    modern = target().machine.model_copy(update={"isa": ("avx512f", "amx_bf16")})
    options = list(ENGINE.space(model, target(machine=modern)).grid())
    assert [each["precision"] for each in options] == ["f32", "bf16"]
    assert [ENGINE.is_exact(each) for each in options] == [True, False]
    assert not ENGINE.is_exact({"dynamic_quantization": True})
    assert ENGINE.is_exact({})


def test_static_shapes_are_offered_where_there_are_free_ones_to_fix(tmp_path: Path) -> None:
    model = graphs.linear().write(tmp_path / "model")
    offered = {
        goal: [choice.name for choice in ENGINE.space(model, target(goal=goal)).choices]
        for goal in ("latency", "memory")
    }
    assert offered == {"latency": ["precision", "shapes"], "memory": ["precision"]}
    with pytest.raises(InputError, match=r"'fixed'.*static"):
        ENGINE.build(model, {"shapes": "fixed"}, tmp_path)


def test_shapes_that_come_often_get_a_network_of_their_own(tmp_path: Path) -> None:
    case = graphs.perceptron()
    session = load(case.write(tmp_path / "m"), tmp_path / "a", Placement(), shapes="static")
    assert isinstance(session, OpenVINOSession)
    sizes = [3] * 8 + [5] * 3 + [2] * 9 + [4] * 9 + [3, 5, 4]
    for turn, rows in enumerate(sizes):
        arrays = case.inputs(rows, turn)
        np.testing.assert_allclose(session.run(arrays)["y"], case.answer(arrays)["y"], rtol=1e-4)
        if turn == 7:
            assert session.specialised == 1
            assert not session.serves_all, "what only one shape needs is not kept for others"
    assert session.specialised == 2, "a third shape would hold the weights a fourth time"
    assert session.serves_all


def test_shapes_are_compiled_once_from_many_threads(tmp_path: Path) -> None:
    case = graphs.perceptron()
    session = load(
        case.write(tmp_path / "m"), tmp_path / "a", Placement(streams=2), shapes="static"
    )
    assert isinstance(session, OpenVINOSession)
    arrays = [case.inputs(rows, rows) for rows in (1, 2, 3, 4)]

    def call(turn: int) -> bool:
        given = arrays[turn % 4]
        return np.allclose(session.run(given)["y"], case.answer(given)["y"], rtol=1e-4)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(call, range(200)))
    assert session.specialised == 2


def test_bf16_computes_in_bf16_where_the_cpu_has_it(tmp_path: Path) -> None:
    if "BF16" not in _openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this CPU has no BF16")
    case = graphs.perceptron()
    model = case.write(tmp_path / "model")
    arrays = case.inputs(4, 0)
    answer = case.answer(arrays)["y"]
    errors = []
    for precision in ("f32", "bf16"):
        session = load(model, tmp_path / precision, Placement(), precision=precision)
        outputs = session.run(arrays)["y"]
        assert outputs.dtype == np.float32
        errors.append(np.linalg.norm(outputs - answer) / np.linalg.norm(answer))
    assert errors[0] < 1e-5 < 1e-4 < errors[1] < 0.05


def test_weights_keep_32_bits(tmp_path: Path) -> None:
    case = graphs.perceptron()
    (tmp_path / "a").mkdir()
    artifact = ENGINE.build(case.write(tmp_path / "model"), {}, tmp_path / "a")
    weights = sum(value.size for value in case.constants.values())
    assert artifact.with_suffix(".bin").stat().st_size >= 4 * weights


def test_an_unknown_precision_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'fp32'.*f32"):
        ENGINE.build(graphs.linear().write(tmp_path / "m"), {"precision": "fp32"}, tmp_path)


def one_node(folder: Path, node: onnx.NodeProto, outputs: tuple[str, ...]) -> Model:
    def info(name: str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4])

    nodes = [node]
    nodes += [helper.make_node("Identity", ["y"], [name]) for name in outputs if name != "y"]
    proto = helper.make_model(
        helper.make_graph(nodes, "g", [info("x")], [info(name) for name in outputs]),
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)],
        ir_version=10,
    )
    (folder / "onnx").mkdir(parents=True)
    onnx.save(proto, folder / "onnx" / "model.onnx")

    def spec(name: str) -> TensorSpec:
        return TensorSpec(name=name, dtype="float32", shape=("n", 4))

    return Model.seal(folder, Signature(inputs=(spec("x"),), outputs=tuple(map(spec, outputs))))


def test_one_tensor_may_leave_under_several_names(tmp_path: Path) -> None:
    model = one_node(tmp_path / "m", helper.make_node("Relu", ["x"], ["y"]), ("copy", "y", "more"))
    outputs = load(model, tmp_path / "a", Placement()).run({"x": -np.eye(4, dtype=np.float32)})
    assert list(outputs) == ["copy", "y", "more"]
    assert all(not array.any() for array in outputs.values())


def test_an_operator_that_it_lacks_is_named(tmp_path: Path) -> None:
    node = helper.make_node("BiasSplitGelu", ["x", "x"], ["y"], domain="com.microsoft")
    model = one_node(tmp_path / "m", node, ("y",))
    with pytest.raises(NotApplicable, match="BiasSplitGelu"):
        load(model, tmp_path / "a", Placement())


def test_strings_and_bfloat16_are_refused_with_a_reason(tmp_path: Path) -> None:
    model = graphs.linear().write(tmp_path / "m")
    for dtype in ("str", "bfloat16"):
        spec = model.signature.inputs[0].model_copy(update={"dtype": dtype})
        changed = Model.seal(model.path, model.signature.model_copy(update={"inputs": (spec,)}))
        answer = ENGINE.applies(changed, target())
        assert not answer and dtype in answer.reason and "input.1" in answer.reason

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from strop import engines
from strop.engines.onnxruntime import _session_options
from strop.errors import InputError, NotApplicable
from strop.models.model import Model
from strop.records import Placement, SessionSpec, Signature, TensorSpec
from strop.testing import graphs
from strop.testing.engines import EngineConformance
from strop.testing.targets import target

ENGINE = engines.get("onnxruntime")


class TestConformance(EngineConformance):
    engine = "onnxruntime"


def model_of(folder: Path, node: onnx.NodeProto, kind: int = TensorProto.FLOAT) -> Model:
    """A graph of one node from `x` to `y`."""
    info = [helper.make_tensor_value_info(name, kind, ["n"]) for name in "xy"]
    proto = helper.make_model(
        helper.make_graph([node], "g", info[:1], info[1:]),
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("acme", 1)],
        ir_version=10,
    )
    (folder / "onnx").mkdir(parents=True)
    onnx.save(proto, folder / "onnx" / "model.onnx")
    dtype = "str" if kind == TensorProto.STRING else "float32"
    x, y = (TensorSpec(name=name, dtype=dtype, shape=("n",)) for name in "xy")
    return Model.seal(folder, Signature(inputs=(x,), outputs=(y,)))


def open_built(model: Model, workdir: Path) -> engines.Session:
    workdir.mkdir()
    artifact = ENGINE.build(model, {}, workdir)
    return engines.open_session(
        SessionSpec(engine="onnxruntime", artifact=str(artifact), signature=model.signature)
    )


def test_options_reach_the_runtime() -> None:
    settings = _session_options(
        {"graph": "basic", "spinning": False, "arena": False, "flush_denormals": True},
        Placement(threads=3),
    )
    assert settings.graph_optimization_level.name == "ORT_ENABLE_BASIC"
    assert settings.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert settings.get_session_config_entry("session.set_denormal_as_zero") == "1"
    assert not settings.enable_cpu_mem_arena
    assert settings.intra_op_num_threads == 3


@pytest.mark.parametrize(("threads", "streams", "pool"), [(1, 1, 1), (1, 4, 1), (3, 2, 5)])
def test_every_stream_has_its_threads(threads: int, streams: int, pool: int) -> None:
    """`streams` callers and the pool's other threads make `threads` for each stream."""
    settings = _session_options({}, Placement(threads=threads, streams=streams))
    assert settings.intra_op_num_threads == pool
    assert streams + (pool - 1) == threads * streams


def test_the_space_follows_the_target(tmp_path: Path) -> None:
    model = graphs.linear().write(tmp_path / "model")
    assert list(ENGINE.space(model, target()).default) == ["graph"]
    assert "spinning" in ENGINE.space(model, target(threads=2)).default
    assert "arena" in ENGINE.space(model, target(goal="memory")).default
    arm = target().machine.model_copy(update={"architecture": "aarch64", "isa": ("neon", "bf16")})
    space = ENGINE.space(model, target(machine=arm))
    assert [ENGINE.is_exact(options) for options in space.grid()] == [True, False, True, False]


def test_an_unknown_graph_level_is_refused(tmp_path: Path) -> None:
    model = graphs.linear().write(tmp_path / "model")
    (tmp_path / "artifact").mkdir()
    with pytest.raises(InputError, match=r"'most'.*extended"):
        ENGINE.build(model, {"graph": "most"}, tmp_path / "artifact")


def test_custom_operators_are_named(tmp_path: Path) -> None:
    model = model_of(tmp_path / "model", helper.make_node("Swirl", ["x"], ["y"], domain="acme"))
    answer = ENGINE.applies(model, target())
    assert not answer and "acme::Swirl" in answer.reason
    with pytest.raises(NotApplicable, match="Swirl"):
        open_built(model, tmp_path / "artifact")


def test_a_failed_export_is_the_reason(tmp_path: Path) -> None:
    (tmp_path / "module").mkdir()
    (tmp_path / "module" / "module.json").write_text("{}")
    signature = graphs.linear().signature
    model = Model.seal(tmp_path, signature, meta={"export_error": "data-dependent branch (net:7)"})
    answer = ENGINE.applies(model, target())
    assert not answer and "data-dependent branch (net:7)" in answer.reason


def test_strings_pass(tmp_path: Path) -> None:
    model = model_of(tmp_path / "m", helper.make_node("Identity", ["x"], ["y"]), TensorProto.STRING)
    assert ENGINE.applies(model, target())
    session = open_built(model, tmp_path / "artifact")
    for words in (np.array(["a", "längst"], object), np.array(["a", "längst"])):
        assert session.run({"x": words})["y"].tolist() == ["a", "längst"]


def test_external_data_travel_with_the_artefact(tmp_path: Path) -> None:
    case = graphs.perceptron()
    inline = case.write(tmp_path / "inline")
    (tmp_path / "model" / "onnx").mkdir(parents=True)
    onnx.save_model(
        onnx.load(inline.forms["onnx"]),
        tmp_path / "model" / "onnx" / "model.onnx",
        save_as_external_data=True,
        location="model.onnx.data",
        size_threshold=0,
    )
    model = Model.seal(tmp_path / "model", case.signature)
    session = open_built(model, tmp_path / "artifact")
    arrays = case.inputs(2, 0)
    np.testing.assert_allclose(session.run(arrays)["y"], case.answer(arrays)["y"], rtol=1e-4)
    assert (tmp_path / "artifact" / "model.onnx.data").stat().st_size > 64 * 64 * 4


def test_functions_that_the_file_defines_are_no_custom_operators(tmp_path: Path) -> None:
    body = [helper.make_node("Relu", ["a"], ["b"])]
    function = helper.make_function(
        "acme", "Swirl", ["a"], ["b"], body, [helper.make_opsetid("", 17)]
    )
    model = model_of(tmp_path / "model", helper.make_node("Swirl", ["x"], ["y"], domain="acme"))
    proto = onnx.load(model.forms["onnx"])
    proto.functions.append(function)
    onnx.save(proto, model.forms["onnx"])
    assert ENGINE.applies(model, target())
    outputs = open_built(model, tmp_path / "artifact").run({"x": np.array([-1, 2], np.float32)})
    assert outputs["y"].tolist() == [0, 2]


def test_operators_in_branches_are_seen(tmp_path: Path) -> None:
    branches = [
        helper.make_graph(
            [helper.make_node(kind, ["x"], [out], domain=domain)],
            out,
            [],
            [helper.make_tensor_value_info(out, TensorProto.FLOAT, ["n"])],
        )
        for kind, domain, out in (("Swirl", "acme", "t"), ("Relu", "", "e"))
    ]
    true = numpy_helper.from_array(np.array(True))
    model = model_of(tmp_path / "model", helper.make_node("Relu", ["x"], ["y"]))
    proto = onnx.load(model.forms["onnx"])
    del proto.graph.node[:]
    proto.graph.node.extend(
        [
            helper.make_node("Constant", [], ["c"], value=true),
            helper.make_node("If", ["c"], ["y"], then_branch=branches[0], else_branch=branches[1]),
        ]
    )
    onnx.save(proto, model.forms["onnx"])
    assert "acme::Swirl" in ENGINE.applies(model, target()).reason


def test_a_refused_file_is_told_without_its_place(tmp_path: Path) -> None:
    artifact = tmp_path / "model.onnx"
    artifact.write_bytes(b"no model at all")
    signature = graphs.linear().signature
    with pytest.raises(NotApplicable, match=r"cannot load the model: .*[Pp]arsing") as caught:
        ENGINE.load(artifact, signature, {}, Placement())
    assert str(tmp_path) not in str(caught.value)

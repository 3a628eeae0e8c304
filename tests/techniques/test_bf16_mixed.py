from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest

from strop import engines
from strop.measure import describe
from strop.models import relative_error
from strop.models.model import Model
from strop.records import Placement
from strop.search.space import joint_space
from strop.techniques import get
from strop.techniques.bf16_mixed import MixedBF16, _split_names, to_bf16
from strop.testing import targets
from strop.testing.techniques import TechniqueConformance

from . import small_graphs as small
from .small_graphs import node

pytest.importorskip("openvino")

BF16 = small.target("avx512_bf16")
HERE = {"avx512_bf16", "amx_bf16"} & set(describe().isa)
COMPUTES = ("Convolution", "GroupConvolution", "MatMul")


class TestMixedBF16(TechniqueConformance):
    technique = "bf16-mixed"

    @pytest.fixture(autouse=True)
    def _with_bf16(self, monkeypatch: pytest.MonkeyPatch) -> None:
        machine = targets.target().machine
        machine = machine.model_copy(update={"isa": (*machine.isa, "avx512_bf16")})
        given = targets.target
        monkeypatch.setattr(
            "strop.testing.techniques.target",
            lambda **changes: given(**{"machine": machine, **changes}),
        )


def deep(folder: Path) -> Model:
    """Four products, of which the second has weights that BF16 rounds badly."""
    width = 64
    constants = {f"w{k}": small.floats(width, width, seed=k) / 8 for k in range(4)}
    # 1 + 2⁻⁸ lies half-way between two BF16 values: all of these weights lose as much as can be.
    constants["w1"] = np.sign(constants["w1"]).astype(np.float32) * np.float32(1 + 2**-8) / 8
    for name in ("w0", "w2", "w3"):
        constants[name] = to_bf16(constants[name])
    nodes = [
        node("MatMul", ["x", "w0"], ["h0"], name="first"),
        node("MatMul", ["h0", "w1"], ["h1"], name="worst"),
        node("Relu", ["h1"], ["r1"], name="relu"),
        node("MatMul", ["r1", "w2"], ["h2"], name="third"),
        node("MatMul", ["h2", "w3"], ["y"], name="last"),
    ]
    return small.seal(
        folder, nodes, constants, inputs={"x": ("n", width)}, outputs={"y": ("n", width)}
    )


def mixed(model: Model, folder: Path, **params: object) -> Model:
    data = {"calibrate": small.dataset(model, 40)}
    return small.apply(MixedBF16(), model, folder, data=data, **params)


def marked(model: Model) -> list[str]:
    root = ElementTree.parse(model.forms["openvino"]).getroot()
    return [
        layer.attrib["type"]
        for layer in root.iterfind("./layers/layer")
        if layer.find("./rt_info/attribute[@name='precise']") is not None
    ]


def test_the_layer_that_loses_most_is_marked(tmp_path: Path) -> None:
    result = mixed(deep(tmp_path / "in"), tmp_path / "out", keep_float=0.1)
    assert result.meta["kept_fp32_layers"] == ["worst"]
    assert marked(result) == ["MatMul"]


def test_convolutions_with_biases_and_products_are_found(tmp_path: Path) -> None:
    model = small.conv_net(tmp_path / "in")
    result = mixed(model, tmp_path / "out", keep_float=0.99)
    found = marked(result)
    assert len(found) == len(result.meta["kept_fp32_layers"]) >= 2
    assert set(found) <= set(COMPUTES)
    session = engines.get("openvino").load(
        result.forms["openvino"], result.signature, {"precision": "f32"}, Placement()
    )
    arrays = {"image": small.floats(4, 3, 8, 8)}
    before = small.run(model, arrays)["logits"]
    assert relative_error(before, session.run(arrays)["logits"]) < 1e-4
    session.close()


@pytest.mark.skipif(not HERE, reason="no BF16 arithmetic on this machine")
def test_the_plugin_computes_marked_layers_in_fp32(tmp_path: Path) -> None:
    """What OpenVINO does with the mark is not documented: this holds it to what was seen."""
    model = deep(tmp_path / "in")
    plain = engines.get("openvino").build(model, {"precision": "bf16"}, tmp_path)
    result = mixed(model, tmp_path / "out", keep_float=0.1)
    assert precisions(plain) == {"bf16": 4}
    assert precisions(result.forms["openvino"]) == {"bf16": 3, "f32": 1}
    arrays = {"x": small.floats(32, 64, seed=9)}
    exact = small.run(model, arrays)["y"]

    def error(artifact: Path) -> float:
        session = engines.get("openvino").load(
            artifact, model.signature, {"precision": "bf16"}, Placement()
        )
        try:
            return relative_error(exact, session.run(arrays)["y"])
        finally:
            session.close()

    assert error(result.forms["openvino"]) < 0.8 * error(plain)


def precisions(artifact: Path) -> dict[str, int]:
    """How many products run in which precision."""
    import openvino

    compiled = openvino.Core().compile_model(artifact, "CPU", {"INFERENCE_PRECISION_HINT": "bf16"})
    counts: dict[str, int] = {}
    for op in compiled.get_runtime_model().get_ops():
        info = op.get_rt_info()
        if info["layerType"].astype(str) in ("FullyConnected", "MatMul", "Convolution"):
            precision = info["runtimePrecision"].astype(str)
            counts[precision] = counts.get(precision, 0) + 1
    return counts


def test_only_bf16_on_openvino_is_worth_it(tmp_path: Path) -> None:
    model = deep(tmp_path / "in")
    space = joint_space(model, BF16, only_techniques=["bf16-mixed"])
    recipes = [it for it in space.recipes if it.steps]
    assert recipes
    assert {(it.deploy.engine, it.deploy.options["precision"]) for it in recipes} == {
        ("openvino", "bf16")
    }
    assert not any(space.is_exact(recipe) for recipe in recipes)


def test_where_it_does_not_apply_the_reason_says_why(tmp_path: Path) -> None:
    technique = get("bf16-mixed")
    model = deep(tmp_path / "in")
    assert technique.applies(model, BF16)
    assert (
        "only with amx_bf16 or avx512_bf16"
        in technique.applies(model, small.target("avx512_vnni")).reason
    )
    lone = small.seal(
        tmp_path / "one",
        [node("MatMul", ["x", "w"], ["y"], name="only")],
        {"w": small.floats(8, 8)},
        inputs={"x": ("n", 8)},
        outputs={"y": ("n", 8)},
    )
    assert "nothing to mix" in technique.applies(lone, BF16).reason


def test_rounding_is_to_the_nearest_and_ties_go_to_even() -> None:
    values = np.float32([1 + 2**-8, 1 + 3 * 2**-8, -1.001, 3e38, np.inf])
    expected = np.float32([1.0, 1 + 2**-6, -1.0, 3e38, np.inf])
    np.testing.assert_allclose(to_bf16(values), expected, rtol=2**-8)
    assert to_bf16(values)[0] == 1.0
    assert to_bf16(values)[1] == np.float32(1 + 2**-6)
    assert np.isinf(to_bf16(values)[4])


def test_tensor_names_with_commas_are_told_apart() -> None:
    assert _split_names(r"a\,b,c\\d,e") == ["a,b", r"c\d", "e"]

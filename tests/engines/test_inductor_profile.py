"""Kernels of a compiled library under PyTorch's profiler."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from strop import engines
from strop.engines.inductor_library import LIBRARY
from strop.errors import NotApplicable
from strop.records import Placement
from strop.testing import graphs

torch = pytest.importorskip("torch")

from strop.engines.inductor_profile import kind, profile  # noqa: E402 - needs torch

compiles = pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("graph_0_cpp_fused_add_relu_3", "fused: add, relu"),
        (
            "cpp_fused__softmax_max_pool2d_with_indices_12",
            "fused: _softmax, max_pool2d_with_indices",
        ),
        ("cpp_fused_0", "fused: "),
        ("cpp_fused_add_div_exp_mul_sub_7", "fused: add, div, exp, mul, 1 more"),
        ("aoti_torch_cpu_addmm_out", "addmm_out"),
        ("aoti_torch_cpu_mkldnn__convolution_pointwise_", "mkldnn__convolution_pointwise"),
        ("aoti_torch_cpu__linear_pointwise", "linear_pointwise"),
        ("aten::addmm", ""),
        ("strop:call", ""),
    ],
)
def test_names_tell_what_was_fused(name: str, said: str) -> None:
    assert kind(name) == said


def test_a_library_without_names_says_how_to_get_them() -> None:
    x = torch.ones(4, 4)
    with pytest.raises(NotApplicable, match="strop profile MODEL --engine inductor"):
        profile(lambda: torch.relu(x @ x), 2)


@compiles
@pytest.mark.timeout(1800)  # it compiles, with whatever else the machine does
def test_a_library_that_was_built_to_be_profiled_names_its_kernels(tmp_path: Path) -> None:
    engine = engines.get("inductor")
    case = graphs.convolutional()
    model = case.write(tmp_path / "model")
    (tmp_path / "built").mkdir()
    artifact = engine.build(model, dict(engine.profile_options), tmp_path / "built")
    assert artifact.name == LIBRARY
    arrays = case.inputs(3, 0)
    found = engine.profile(artifact, case.signature, {}, Placement(threads=1), arrays, 5)
    kinds = [one.operator for one in found.operators]
    assert any("convolution" in one for one in kinds)
    assert any(one.startswith("fused: ") for one in kinds)
    names = [one.name for one in found.operators]
    assert len(set(names)) == len(names)
    assert all(one.seconds > 0 and one.low <= one.high for one in found.operators)

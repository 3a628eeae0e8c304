"""The answers written in numpy are those of the graphs, on an evaluator that is no engine."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from strop.models.graph import signature
from strop.testing import graphs
from strop.testing.graphs import Case

CASES = (
    graphs.linear(),
    graphs.several(),
    graphs.passthrough(),
    graphs.half(),
    graphs.no_weights(),
    graphs.perceptron(),
    graphs.convolutional(),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_graph_and_answer_agree(case: Case, tmp_path: Path) -> None:
    model = case.write(tmp_path / "model")
    proto = onnx.load(model.forms["onnx"])
    assert signature(proto) == case.signature
    arrays = case.inputs(3, 1)
    values = ReferenceEvaluator(proto).run(None, arrays)
    expected = case.answer(arrays)
    for name, value in zip(case.signature.output_names, values, strict=True):
        assert value.dtype == expected[name].dtype, name
        np.testing.assert_allclose(value, expected[name], rtol=1e-4, atol=1e-4, err_msg=name)

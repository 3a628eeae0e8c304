from __future__ import annotations

from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from strop.errors import ModelError
from strop.models import graph
from strop.models.border import declare
from strop.records import Signature, TensorSpec


def relu(*shape: Any) -> onnx.ModelProto:
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, list(shape)) for n in "xy"]
    node = helper.make_node("Relu", ["x"], ["y"], "relu")
    return helper.make_model(
        helper.make_graph([node], "relu", values[:1], values[1:]),
        opset_imports=[helper.make_opsetid("", 18)],
    )


def wanted(*shape: int | str | None, name: str = "x") -> Signature:
    inputs, outputs = (TensorSpec(name=n, dtype="float32", shape=shape) for n in (name, "y"))
    return Signature(inputs=(inputs,), outputs=(outputs,))


@pytest.mark.parametrize("shape", [("n", 4), (None, 4), (2, 4), ("n", None)])
def test_free_dimensions_are_renamed_or_fixed(shape: tuple[int | str | None, ...]) -> None:
    given = relu("batch", 4 if shape[1] == 4 else "length")
    before = given.SerializeToString()
    after = declare(given, wanted(*shape))
    assert graph.signature(after) == wanted(*shape)
    assert given.SerializeToString() == before


@pytest.mark.parametrize(
    ("signature", "reason"),
    [
        (wanted("n", "length"), "4"),
        (wanted("n", 5), "4"),
        (wanted("n"), "has"),
        (wanted("n", 4, name="image"), "not"),
    ],
)
def test_what_does_not_fit_is_an_error(signature: Signature, reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        declare(relu("batch", 4), signature)

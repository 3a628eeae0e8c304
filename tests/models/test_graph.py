from __future__ import annotations

import numpy as np
import pytest

from strop.errors import ModelError
from strop.models import graph


def test_operators_count_subgraphs_and_name_foreign_domains(make):
    proto = make(
        """g (bool c, float[3] x) => (float[3] y) {
            h = acme.Fold(x)
            y = If(c) <
                then_branch = a () => (float[3] t) { t = Relu(h) },
                else_branch = b () => (float[3] e) { k = Relu(h) e = Neg(k) }
            >
        }""",
        domains={"acme": 1},
    )
    assert graph.operators(proto) == {"acme.Fold": 1, "If": 1, "Relu": 2, "Neg": 1}
    assert graph.control_flow(proto)
    assert graph.custom_domains(proto) == ["acme"]


def test_constants_are_initialisers_and_constant_nodes(make):
    proto = make(
        """g (float[2] x) => (float[2] y) {
            a = Constant<value = float[2] {1, 2}>()
            b = Constant<value_ints = [3, 4]>()
            c = Constant<value_float = 0.5>()
            s = Constant<value_string = "word">()
            y = Add(x, a)
        }""",
        weights={"w": np.eye(2, dtype=np.float16)},
    )
    found = graph.constants(proto)
    assert found.keys() == {"w", "a", "b", "c", "s"}
    assert found["w"].dtype == np.float16
    assert found["b"].tolist() == [3, 4]
    assert found["b"].dtype == np.int64
    assert found["c"].shape == ()
    assert found["s"].item() in (b"word", "word")


def test_shapes_are_inferred_with_symbols_and_without_the_weights(make):
    weight = np.ones((64, 32), np.float32)
    proto = make(
        "g (float[N, 64] x) => (float[N, 32] y) { h = MatMul(x, w) r = Relu(h) y = Neg(r) }",
        weights={"w": weight},
    )
    inferred = graph.infer_shapes(proto)
    shapes = graph.shapes_by_name(inferred)
    assert shapes["h"] == ("N", 32)
    assert shapes["w"] == (64, 32)
    assert "w" not in {value.name for value in inferred.graph.value_info}
    assert [value.name for value in inferred.graph.input] == ["x"]
    np.testing.assert_array_equal(graph.constants(inferred)["w"], weight)
    assert not proto.graph.value_info  # the argument is left as it was


def test_shapes_inside_subgraphs_are_inferred(make):
    proto = make(
        """g (bool c, float[N, 3] x) => (float[N, 3] y) {
            y = If(c) <
                then_branch = a () => (t) { k = Relu(x) t = Neg(k) },
                else_branch = b () => (e) { e = Neg(x) }
            >
        }"""
    )
    inferred = graph.infer_shapes(proto)
    inner = {"k": ("N", 3)}
    found = [graph.shapes_of(part) for part in list(graph.graphs(inferred.graph))[1:]]
    assert any(inner.items() <= shapes.items() for shapes in found)


def test_shapes_that_contradict_stay_unknown(make):
    proto = make(
        "g (float[N, 64] x) => (float[N, 32] y) { h = MatMul(x, w) y = Relu(h) }",
        weights={"w": np.ones((63, 32), np.float32)},
    )
    assert "h" not in graph.shapes_by_name(graph.infer_shapes(proto))


def test_the_signature_knows_fixed_symbolic_and_free_dimensions(make):
    proto = make("g (float[N, ?, 3] x, int64 k) => (float[N, ?, 3] y) { y = Identity(x) }")
    signature = graph.signature(proto)
    assert signature.inputs[0].shape == ("N", None, 3)
    assert signature.inputs[1].shape == ()
    proto.graph.input[0].type.tensor_type.ClearField("shape")
    assert graph.signature(proto).inputs[0].shape is None
    proto.graph.input[1].type.tensor_type.elem_type = 0
    with pytest.raises(ModelError, match="input 'k' has no known element type"):
        graph.signature(proto)


def test_weights_taken_out_come_back(make):
    weights = {"w": np.ones((64, 32), np.float32), "axis": np.array([1])}
    proto = make(
        "g (float[N, 64] x) => (float[N] y)"
        " { h = MatMul(x, w) y = ReduceSum<keepdims=0>(h, axis) }",
        weights=weights,
    )
    small = graph.without_weights(proto)
    assert [tensor.name for tensor in small.graph.initializer] == ["axis"]
    assert [value.name for value in small.graph.input] == ["x", "w"]
    whole = graph.with_weights(small, proto)
    assert [value.name for value in whole.graph.input] == ["x"]
    assert graph.constants(whole).keys() == weights.keys()
    assert graph.weight_bytes(whole) == 64 * 32 * 4 + 8


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("y = MatMulInteger(x, w)", True),
        ("y = com.microsoft.QAttention(x, w)", True),
        ("y = com.microsoft.MatMulNBits(x, w)", True),
        ("y = com.microsoft.Gelu(x)", False),
        ("y = MatMul(x, w)", False),
    ],
)
def test_what_counts_as_quantised(make, text, expected):
    proto = make(f"g (x, w) => (y) {{ {text} }}", domains={"com.microsoft": 1})
    assert graph.is_quantised(proto) is expected

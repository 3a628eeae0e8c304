from __future__ import annotations

import numpy as np
import pytest

from strop.errors import ModelError
from strop.models import Model
from strop.models.facts import facts
from strop.records import Signature, TensorSpec


def zeros(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


@pytest.mark.parametrize(
    ("text", "weights", "flops"),
    [
        # 2·M·N·K, and a bias adds one an output element
        ("g (float[N, 8] x) => (y) { y = MatMul(x, w) }", {"w": zeros(8, 5)}, 2 * 2 * 5 * 8),
        ("g (float[N, 8] x) => (y) { y = Gemm<transB=1>(x, w, b) }",
         {"w": zeros(5, 8), "b": zeros(5)}, 2 * 2 * 5 * 8 + 2 * 5),
        # 3×3 kernel, 4 of 8 channels a group, 6×6 outputs
        ("g (float[N, 8, 8, 8] x) => (y) { y = Conv<group=2>(x, w) }",
         {"w": zeros(10, 4, 3, 3)}, 2 * (2 * 10 * 6 * 6) * (4 * 9)),
        ("g (float[N, 4, 5, 5] x) => (y) { y = ConvTranspose<strides=[2, 2]>(x, w) }",
         {"w": zeros(4, 6, 2, 2)}, 2 * (2 * 4 * 25) * (6 * 4)),
        # 7 steps, 4 gates of hidden size 5 over 3 inputs and 5 states
        ("g (float[7, N, 3] x) => (y, h, c) { y, h, c = LSTM<hidden_size=5>(x, w, r) }",
         {"w": zeros(1, 20, 3), "r": zeros(1, 20, 5)}, 2 * 7 * 2 * 20 * 8),
        ("g (float[N, 3, 4, 4] x) => (y) { y = MaxPool<kernel_shape=[2,2], strides=[2,2]>(x) }",
         {}, 2 * 3 * 2 * 2 * 4),
        ("g (float[N, 6] x) => (y) { h = Relu(x) t = Transpose(h) y = Identity(t) }", {}, 12),
        ("g (float[N, 6] x) => (y) { y = ReduceMean<axes=[1]>(x) }", {}, 12),
    ],
)  # fmt: skip
def test_operations_are_counted(make, text, weights, flops):
    proto = make(text, weights=weights)
    axis = 1 if "[7, N" in text else 0
    shape = [dim.dim_value for dim in proto.graph.input[0].type.tensor_type.shape.dim]
    shape[axis] = 2
    found = facts(proto, examples={"x": zeros(*shape)})
    assert found.flops == flops
    assert found.unknown_nodes == 0


def test_attention_is_counted_through_its_products(make):
    proto = make(
        """g (float[N, heads, len, 16] q, float[N, heads, 16, len] k, float[N, heads, len, 16] v)
        => (y) { s = MatMul(q, k) p = Softmax(s) y = MatMul(p, v) }"""
    )
    found = facts(
        proto,
        examples={"q": zeros(1, 2, 10, 16), "k": zeros(1, 2, 16, 10), "v": zeros(1, 2, 10, 16)},
    )
    assert found.flops == 2 * (2 * 2 * 10 * 10 * 16) + 5 * 2 * 10 * 10


def test_bytes_parameters_and_weights(make):
    proto = make(
        "g (float[N, 8] x) => (y) { h = MatMul(x, w) r = Reshape(h, s) y = Relu(r) }",
        weights={"w": zeros(8, 5), "s": np.array([-1, 5])},
    )
    found = facts(proto, batch=2)
    assert found.parameters == 40  # the shape is no parameter
    assert found.weights_bytes == 160 + 16
    assert [layer.bytes_moved for layer in found.layers] == [
        4 * (16 + 40 + 10),
        0,  # a reshape moves nothing
        4 * (10 + 10),
    ]
    assert found.bytes_moved == 264 + 80
    assert found.operators == {"MatMul": 1, "Reshape": 1, "Relu": 1}
    assert found.dynamic_dims == {"x": (0,)}


def test_a_lookup_reads_only_what_it_picks(make):
    proto = make("g (int64[N, 4] ids) => (y) { y = Gather(w, ids) }", weights={"w": zeros(1000, 8)})
    assert facts(proto).bytes_moved == 8 * 4 + 2 * 4 * 32


def test_narrow_types_take_less_room(make):
    proto = make(
        "g (float16[N, 8] x) => (y) { y = MatMul(x, w) }",
        weights={"w": np.zeros((8, 5), np.float16)},
    )
    assert facts(proto).bytes_moved == 2 * (8 + 40 + 5)


def test_sizes_come_from_shapes_and_scale_with_the_batch(make):
    proto = make(
        "g (float[N, length, 8] x) => (y) { y = MatMul(x, w) }", weights={"w": zeros(8, 5)}
    )
    short = facts(proto, shapes={"x": [1, 3, 8]})
    assert short.flops == 2 * 3 * 5 * 8
    assert facts(proto, shapes={"x": [1, 3, 8]}, batch=4).flops == 4 * short.flops


def test_a_shape_that_depends_on_data_is_unknown_not_zero(make):
    proto = make("g (float[N] x) => (y) { i = NonZero(x) f = Cast<to=1>(i) y = Neg(f) }")
    found = facts(proto)
    assert found.unknown_nodes == 3
    assert found.layers[-1].flops is None


def test_a_branch_costs_its_dearer_side(make):
    proto = make(
        """g (bool c, float[2, 3] x) => (y) {
            y = If(c) <
                then_branch = a () => (t) { k = Relu(x) t = Neg(k) },
                else_branch = b () => (e) { e = Neg(x) }
            >
        }"""
    )
    found = facts(proto)
    assert found.flops == 12
    assert found.control_flow


def test_a_model_without_an_onnx_form_has_no_facts(tmp_path):
    (tmp_path / "openvino").mkdir()
    (tmp_path / "openvino" / "model.xml").write_text("<net/>")
    spec = TensorSpec(name="x", dtype="float32", shape=(1,))
    model = Model.seal(tmp_path, Signature(inputs=(spec,), outputs=(spec,)))
    with pytest.raises(ModelError, match="no onnx form"):
        facts(model)

"""Every operator against ONNX Runtime, then whole networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from strop.errors import NotApplicable
from strop.models import graph
from strop.models.border import declare
from strop.models.model import Model
from strop.models.module_export import export
from strop.models.onnx_converter import (
    convertible,
    first_difference,
    form_of,
    to_module,
    unsupported,
    with_weights,
)
from strop.models.onnx_ops.supported import SUPPORTED
from strop.models.parity import parity
from strop.models.runner import Runner
from strop.testing import graphs

torch = pytest.importorskip("torch")
nn = torch.nn

Arrays = dict[str, np.ndarray]
RNG = np.random.default_rng(5)


def rand(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape) + len(shape)).standard_normal(shape).astype(np.float32)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def model(
    nodes: list[Any],
    inputs: Arrays,
    constants: Arrays | None = None,
    *,
    outputs: tuple[str, ...] = ("y",),
    opset: int = 18,
    shapes: dict[str, list[Any]] | None = None,
) -> onnx.ModelProto:
    """A graph of `nodes`, the first dimension of each input free unless `shapes` says more."""

    def shape(name: str, array: np.ndarray) -> list[Any]:
        return (shapes or {}).get(name) or (["n", *array.shape[1:]] if array.ndim else [])

    proto = helper.make_model(
        helper.make_graph(
            [
                node
                if isinstance(node, onnx.NodeProto)
                else helper.make_node(node[0], node[1], node[2], f"node{i}", **node[3])
                for i, node in enumerate(nodes)
            ],
            "test",
            [
                helper.make_tensor_value_info(
                    name, helper.np_dtype_to_tensor_dtype(array.dtype), shape(name, array)
                )
                for name, array in inputs.items()
            ],
            [onnx.ValueInfoProto(name=name) for name in outputs],
            [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()],
        ),
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=9 if opset < 21 else 10,
    )
    proto = graph.infer_shapes(proto)
    for value in proto.graph.output:  # ONNX infers nothing for operators that are functions
        if not value.type.HasField("tensor_type"):
            like = next(iter(inputs))
            sizes = shape(like, inputs[like])
            value.CopyFrom(helper.make_tensor_value_info(value.name, TensorProto.FLOAT, sizes))
    return proto


def check(proto: onnx.ModelProto, inputs: Arrays, bound: float = 1e-5) -> Any:
    """Convert and compare, on `inputs` and on the first row alone; the module."""
    module = to_module(proto, check=False)
    form = form_of(graph.signature(proto))
    runner = Runner(proto)
    trials = [inputs]
    if all(array.ndim and len(array) > 1 for array in inputs.values()):
        trials.append({name: array[:1] for name, array in inputs.items()})
    for arrays in trials:
        with torch.no_grad():
            found = form.run(module, {name: torch.tensor(a) for name, a in arrays.items()})
        for name, expected in runner.run(arrays).items():
            actual = found[name].numpy()
            assert actual.dtype == expected.dtype
            assert actual.shape == expected.shape
            np.testing.assert_allclose(actual, expected, rtol=bound, atol=bound, err_msg=name)
    return module


X = rand(2, 6, 5, 7)
POSITIVE = np.abs(rand(2, 6)) + 0.5

UNARY = [
    *("Abs", "Acos", "Asin", "Asinh", "Atan", "Ceil", "Cos", "Cosh", "Erf", "Exp", "Floor"),
    *("Neg", "Reciprocal", "Round", "Sign", "Sin", "Sinh", "Tan", "Tanh", "Relu", "Sigmoid"),
    *("Softplus", "Softsign", "HardSwish", "Elu", "Celu", "LeakyRelu", "Selu", "HardSigmoid"),
    *("ThresholdedRelu", "Identity", "Dropout", "Mish"),
]


@pytest.mark.parametrize("kind", UNARY)
def test_unary(kind: str) -> None:
    x = np.linspace(-0.95, 0.95, 24, dtype=np.float32).reshape(4, 6)
    check(model([(kind, ["x"], ["y"], {})], {"x": x}), {"x": x})


@pytest.mark.parametrize("kind", ["Log", "Sqrt", "Acosh", "Atanh"])
def test_unary_of_a_narrower_domain(kind: str) -> None:
    x = (POSITIVE + 1) if kind == "Acosh" else POSITIVE / POSITIVE.max() * 0.9
    check(model([(kind, ["x"], ["y"], {})], {"x": x}), {"x": x})


@pytest.mark.parametrize("kind", ["Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Mean", "Sum"])
@pytest.mark.parametrize("other", ["tensor", "row", "number", "number on the left"])
def test_binary(kind: str, other: str) -> None:
    x = POSITIVE
    names = ["c", "x"] if other == "number on the left" else ["x", "c"]
    if other == "tensor":
        y = POSITIVE[::-1].copy()
        check(model([(kind, names, ["y"], {})], {"x": x, "c": y}), {"x": x, "c": y})
        return
    c = POSITIVE[0] if other == "row" else np.array(1.5, np.float32)
    check(model([(kind, names, ["y"], {})], {"x": x}, {"c": c}), {"x": x})


@pytest.mark.parametrize("kind", ["Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"])
@pytest.mark.parametrize("left", [True, False])
def test_comparisons_with_a_number(kind: str, left: bool) -> None:
    x = np.array([[1.0, 2.0, 3.0]], np.float32)
    proto = model(
        [(kind, ["c", "x"] if left else ["x", "c"], ["y"], {})],
        {"x": x},
        {"c": np.array(2.0, np.float32)},
    )
    check(proto, {"x": x})


@pytest.mark.parametrize("kind", ["And", "Or", "Xor"])
def test_logic(kind: str) -> None:
    a, b = np.array([[True, True, False, False]]), np.array([[True, False, True, False]])
    proto = model([(kind, ["a", "b"], ["c"], {}), ("Not", ["c"], ["y"], {})], {"a": a, "b": b})
    check(proto, {"a": a, "b": b})


def test_integer_division_truncates_and_modulo_follows_its_attribute() -> None:
    a, b = np.array([[-7, 7, -8]], np.int64), np.array([[2, -2, 3]], np.int64)
    nodes = [
        ("Div", ["a", "b"], ["y"], {}),
        ("Mod", ["a", "b"], ["m"], {}),
        ("Mod", ["a", "b"], ["f"], {"fmod": 1}),
    ]
    check(model(nodes, {"a": a, "b": b}, outputs=("y", "m", "f")), {"a": a, "b": b})


def test_a_constant_of_one_number_may_add_dimensions() -> None:
    x = rand(3)
    proto = model([("Add", ["x", "c"], ["y"], {})], {"x": x}, {"c": np.ones((1, 1), np.float32)})
    check(proto, {"x": x})


@pytest.mark.parametrize(
    ("low", "high", "layer"),
    [(0, 6, nn.ReLU6), (0, None, nn.ReLU), (-1, 1, None), (None, 0.5, None), (None, None, None)],
)
def test_clip(low: float | None, high: float | None, layer: type | None) -> None:
    x = rand(2, 6) * 8
    bounds = {n: np.array(v, np.float32) for n, v in (("l", low), ("h", high)) if v is not None}
    names = ["x", "l" if low is not None else "", "h" if high is not None else ""]
    module = check(model([("Clip", names, ["y"], {})], {"x": x}, bounds), {"x": x})
    if layer:
        assert any(isinstance(part, layer) for part in module.modules())


@pytest.mark.parametrize("to", [TensorProto.INT64, TensorProto.BOOL, TensorProto.FLOAT16])
def test_cast(to: int) -> None:
    x = np.array([[-1.7, 0.0, 2.5]], np.float32)
    check(model([("Cast", ["x"], ["y"], {"to": to})], {"x": x}), {"x": x})


def test_where_keeps_its_type() -> None:
    x = rand(2, 4)
    nodes = [("Greater", ["x", "zero"], ["c"], {}), ("Where", ["c", "a", "zero"], ["y"], {})]
    constants = {"zero": np.array(0, np.float32), "a": np.array(3, np.float32)}
    check(model(nodes, {"x": x}, constants), {"x": x})


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu(approximate: str) -> None:
    x = rand(2, 6)
    proto = model([("Gelu", ["x"], ["y"], {"approximate": approximate})], {"x": x}, opset=20)
    module = check(proto, {"x": x}, 1e-4)
    assert any(isinstance(part, nn.GELU) for part in module.modules())


@pytest.mark.parametrize("slope", [rand(1), rand(6, 1, 1), rand(6, 5, 7)])
def test_prelu(slope: np.ndarray) -> None:
    check(model([("PRelu", ["x", "s"], ["y"], {})], {"x": X}, {"s": slope}), {"x": X})


CONVOLUTIONS: list[tuple[dict[str, Any], tuple[int, ...]]] = [
    ({}, (8, 6, 3, 3)),
    ({"pads": [1, 1, 1, 1]}, (8, 6, 3, 3)),
    ({"pads": [0, 0, 1, 1], "strides": [2, 2]}, (8, 6, 3, 3)),
    ({"group": 6, "pads": [1, 0, 1, 0]}, (12, 1, 3, 1)),
    ({"group": 2, "dilations": [2, 1]}, (4, 3, 2, 2)),
    ({"auto_pad": "SAME_UPPER"}, (8, 6, 2, 3)),
    ({"auto_pad": "SAME_LOWER", "strides": [2, 3]}, (8, 6, 2, 3)),
    ({"auto_pad": "VALID"}, (8, 6, 3, 3)),
]


@pytest.mark.parametrize(("attributes", "weight"), CONVOLUTIONS)
@pytest.mark.parametrize("bias", [True, False])
def test_conv(attributes: dict[str, Any], weight: tuple[int, ...], bias: bool) -> None:
    constants = {"a.weight": rand(*weight), "a.bias": rand(weight[0])}
    names = ["x", "a.weight", "a.bias"][: 3 if bias else 2]
    module = check(model([("Conv", names, ["y"], attributes)], {"x": X}, constants), {"x": X}, 1e-4)
    assert isinstance(module.a, nn.Conv2d), "the layer is called what its weight is"
    assert (module.a.bias is not None) == bias


@pytest.mark.parametrize("places", [1, 3])
def test_conv_of_other_dimensions(places: int) -> None:
    x, w = rand(2, 4, *[5] * places), rand(3, 4, *[3] * places)
    check(model([("Conv", ["x", "w"], ["y"], {})], {"x": x}, {"w": w}), {"x": x}, 1e-4)


def test_conv_with_a_computed_weight_is_a_function() -> None:
    w = rand(4, 6, 3, 3)
    proto = model([("Conv", ["x", "w"], ["y"], {})], {"x": X, "w": w}, shapes={"w": list(w.shape)})
    module = to_module(proto, examples={"x": X, "w": w})
    assert not list(module.parameters())


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]},
        {"pads": [0, 1, 1, 0]},
    ],
)
def test_conv_transpose(attributes: dict[str, Any]) -> None:
    constants = {"w": rand(6, 4, 3, 3), "b": rand(4)}
    nodes = [("ConvTranspose", ["x", "w", "b"], ["y"], attributes)]
    check(model(nodes, {"x": X}, constants), {"x": X}, 1e-4)


@pytest.mark.parametrize("rank", [2, 3, 4])
def test_batch_norm(rank: int) -> None:
    x = rand(3, 6, 4, 5)[(slice(None), slice(None)) + (0,) * (4 - rank)]
    constants = {n: rand(6) for n in ("bn.weight", "bn.bias", "m")}
    constants["v"] = np.abs(rand(6)) + 0.1
    nodes = [("BatchNormalization", ["x", *constants], ["y"], {"momentum": 0.8})]
    module = check(model(nodes, {"x": x}, constants), {"x": x})
    assert module.bn.momentum == pytest.approx(0.2)
    assert not module.bn.training


def test_other_normalisations() -> None:
    x = rand(2, 6, 5, 7)
    constants = {"s": rand(6), "b": rand(6), "w": rand(7), "c": rand(7), "g": rand(3)}
    nodes = [
        ("InstanceNormalization", ["x", "s", "b"], ["i"], {}),
        ("LayerNormalization", ["i", "w", "c"], ["l"], {"epsilon": 1e-3}),
        ("LayerNormalization", ["l", "w"], ["y"], {"axis": -1}),
    ]
    check(model(nodes, {"x": x}, constants), {"x": x}, 1e-4)


def test_group_norm() -> None:
    constants = {"s": rand(6), "b": rand(6)}
    nodes = [("GroupNormalization", ["x", "s", "b"], ["y"], {"num_groups": 3})]
    check(model(nodes, {"x": X}, constants, opset=21), {"x": X}, 1e-4)


POOLS: list[dict[str, Any]] = [
    {"kernel_shape": [3, 3]},
    {"kernel_shape": [2, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]},
    {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [0, 0, 1, 1]},
    {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1},
    {"kernel_shape": [2, 2], "strides": [2, 2], "auto_pad": "SAME_UPPER"},
]


@pytest.mark.parametrize("attributes", POOLS)
def test_max_pool(attributes: dict[str, Any]) -> None:
    check(model([("MaxPool", ["x"], ["y"], attributes)], {"x": X}), {"x": X})


@pytest.mark.parametrize("attributes", POOLS)
@pytest.mark.parametrize("whole", [0, 1])
def test_average_pool(attributes: dict[str, Any], whole: int) -> None:
    given = {**attributes, "count_include_pad": whole}
    check(model([("AveragePool", ["x"], ["y"], given)], {"x": X}), {"x": X})


@pytest.mark.parametrize("kind", ["GlobalAveragePool", "GlobalMaxPool"])
def test_global_pools(kind: str) -> None:
    check(model([(kind, ["x"], ["y"], {})], {"x": X}), {"x": X})


def test_local_response_norm() -> None:
    nodes = [("LRN", ["x"], ["y"], {"size": 3, "alpha": 0.1, "beta": 0.6, "bias": 2.0})]
    check(model(nodes, {"x": X}), {"x": X})


@pytest.mark.parametrize(("alpha", "beta", "turned"), [(1.0, 1.0, 1), (0.5, 2.0, 0)])
def test_gemm_is_a_linear_layer(alpha: float, beta: float, turned: int) -> None:
    x, w = rand(3, 4), rand(5, 4) if turned else rand(4, 5)
    nodes = [("Gemm", ["x", "w", "c"], ["y"], {"alpha": alpha, "beta": beta, "transB": turned})]
    for bias in (rand(5), rand(1), rand(1, 5)):
        module = check(model(nodes, {"x": x}, {"w": w, "c": bias}), {"x": x})
        assert sum(isinstance(part, nn.Linear) for part in module.modules()) == 1


def test_gemm_of_computed_matrices() -> None:
    x, w, c = rand(3, 4), rand(3, 5), rand(4, 1)
    nodes = [("Gemm", ["x", "w", "c"], ["y"], {"transA": 1, "beta": 0.5})]
    arrays = {"x": x, "w": w}
    proto = model(nodes, arrays, {"c": c}, shapes={"x": [3, 4], "w": [3, 5]})
    to_module(proto, examples=arrays)


@pytest.mark.parametrize("bias", [rand(5), rand(1, 1, 5), rand(2, 1)])
def test_a_product_takes_its_bias_in_where_it_is_one(bias: np.ndarray) -> None:
    x = rand(3, 2, 4)
    nodes = [("MatMul", ["x", "fc.weight"], ["m"], {}), ("Add", ["b", "m"], ["y"], {})]
    module = check(model(nodes, {"x": x}, {"fc.weight": rand(4, 5), "b": bias}), {"x": x})
    assert (module.fc.bias is not None) == (bias.size == 5)


def test_a_product_that_is_read_twice_keeps_its_bias_apart() -> None:
    x = rand(3, 4)
    nodes = [("MatMul", ["x", "w"], ["m"], {}), ("Add", ["m", "b"], ["y"], {})]
    proto = model(nodes, {"x": x}, {"w": rand(4, 5), "b": rand(5)}, outputs=("y", "m"))
    check(proto, {"x": x})


def test_einsum() -> None:
    a, b = rand(2, 3, 4), rand(2, 4, 5)
    nodes = [("Einsum", ["a", "b"], ["y"], {"equation": "bij,bjk->bik"})]
    check(model(nodes, {"a": a, "b": b}), {"a": a, "b": b})


def _recurrent(kind: str, direction: str) -> tuple[list[Any], Arrays, tuple[str, ...]]:
    gates, directions = {"LSTM": 4, "GRU": 3}[kind], 2 if direction == "bidirectional" else 1
    constants = {
        "w": rand(directions, gates * 5, 4),
        "r": rand(directions, gates * 5, 5),
        "b": rand(directions, gates * 10),
    }
    outputs = ("y", "h", "c")[: 3 if kind == "LSTM" else 2]
    more: dict[str, Any] = {"hidden_size": 5, "direction": direction}
    if kind == "GRU":
        more["linear_before_reset"] = 1
    return [(kind, ["x", "w", "r", "b"], list(outputs), more)], constants, outputs


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_recurrent(kind: str, direction: str) -> None:
    x = rand(7, 3, 4)
    nodes, constants, outputs = _recurrent(kind, direction)
    proto = model(nodes, {"x": x}, constants, outputs=outputs, shapes={"x": ["t", "n", 4]})
    module = check(proto, {"x": x})
    assert any(isinstance(part, nn.RNNBase) for part in module.modules())


REDUCTIONS = [
    *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean"),
    *("ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare"),
]


@pytest.mark.parametrize("kind", REDUCTIONS)
@pytest.mark.parametrize("keep", [0, 1])
@pytest.mark.parametrize("axes", [[-1], [1, 2], None])
def test_reductions(kind: str, keep: int, axes: list[int] | None) -> None:
    x = np.abs(rand(2, 3, 4)) + 0.1
    names, constants = (["x"], {}) if axes is None else (["x", "a"], {"a": ints(*axes)})
    check(model([(kind, names, ["y"], {"keepdims": keep})], {"x": x}, constants), {"x": x}, 1e-4)


def test_reductions_of_older_operator_sets() -> None:
    x = rand(2, 3, 4)
    proto = model([("ReduceMean", ["x"], ["y"], {"axes": [1], "keepdims": 0})], {"x": x}, opset=13)
    check(proto, {"x": x})


@pytest.mark.parametrize("kind", ["Softmax", "LogSoftmax"])
def test_softmax(kind: str) -> None:
    check(model([(kind, ["x"], ["y"], {"axis": 1})], {"x": X}), {"x": X})


def test_extremes_and_order() -> None:
    x = rand(2, 6)
    nodes = [
        ("ArgMax", ["x"], ["y"], {"axis": 1, "keepdims": 0}),
        ("ArgMin", ["x"], ["z"], {"axis": -1}),
        ("TopK", ["x", "k"], ["values", "places"], {}),
        ("CumSum", ["x", "one"], ["c"], {"reverse": 1, "exclusive": 1}),
    ]
    names = ("y", "z", "values", "places", "c")
    proto = model(nodes, {"x": x}, {"k": ints(3), "one": np.array(1)}, outputs=names)
    check(proto, {"x": x})


@pytest.mark.parametrize(
    ("before", "target", "function"),
    [
        ((2, 6, 1, 1), [0, -1], "flatten"),
        ((2, 6, 1, 1), [-1, 6], "flatten"),
        ((2, 5, 12), [0, 0, 3, 4], "unflatten"),
        ((2, 12, 5, 5), [-1, 3, 4, 5, 5], "unflatten"),
        ((2, 3, 4, 5), [-1, 12, 5], "flatten"),
        ((2, 6), [-1, 6, 1, 1], "unflatten"),
        ((2, 6, 4), [-1, 4, 6], "reshape"),
        ((2, 6, 4), [-1], "flatten"),
    ],
)
def test_reshape_is_a_merge_or_a_split_where_it_can_be(
    before: tuple[int, ...], target: list[int], function: str
) -> None:
    x = rand(*before)
    module = check(
        model([("Reshape", ["x", "s"], ["y"], {})], {"x": x}, {"s": ints(*target)}), {"x": x}
    )
    called = {getattr(node.target, "__name__", node.target) for node in module.graph.nodes}
    assert function in called


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_reshape(data: st.DataObject) -> None:
    """Shapes of the same number of elements, with a zero or a −1 where ONNX allows them."""
    sizes = st.lists(st.sampled_from([1, 2, 3]), min_size=1, max_size=4)
    before = [data.draw(st.sampled_from([1, 2, 3])), *data.draw(sizes)]
    rest = data.draw(st.permutations([*before, 1]))
    target = [rest[0]]
    for size in rest[1:]:  # neighbours are merged at random
        if data.draw(st.booleans()):
            target[-1] *= size
        else:
            target.append(size)
    place = data.draw(st.integers(0, len(target) - 1))
    if data.draw(st.booleans()):
        target[place] = -1
    if place and target[0] == before[0] and data.draw(st.booleans()):
        target[0] = 0
    x = rand(*before)
    shape = {"x": [data.draw(st.sampled_from(["n", before[0]])), *before[1:]]}
    proto = model(
        [("Reshape", ["x", "s"], ["y"], {})], {"x": x}, {"s": ints(*target)}, shapes=shape
    )
    module = to_module(proto, check=False)
    np.testing.assert_array_equal(module(torch.tensor(x)).numpy(), Runner(proto).run({"x": x})["y"])


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_slice(data: st.DataObject) -> None:
    bound = st.integers(-8, 8) | st.just(2**31 - 1)
    axes = data.draw(st.lists(st.sampled_from([0, 1, -1]), min_size=1, max_size=3, unique=True))
    axes = [axis for axis in axes if not (axis == -1 and 2 in axes)]
    starts, ends = ([data.draw(bound) for _ in axes] for _ in range(2))
    steps = [data.draw(st.integers(1, 3)) for _ in axes]
    constants = {"s": ints(*starts), "e": ints(*ends), "a": ints(*axes), "t": ints(*steps)}
    x = rand(4, 5, 6)
    proto = model([("Slice", ["x", *constants], ["y"], {})], {"x": x}, constants)
    module = to_module(proto, check=False)
    np.testing.assert_array_equal(module(torch.tensor(x)).numpy(), Runner(proto).run({"x": x})["y"])


def test_moves() -> None:
    x = rand(2, 6, 4)
    nodes = [
        ("Transpose", ["x"], ["t"], {"perm": [0, 2, 1]}),
        ("Unsqueeze", ["t", "last"], ["u"], {}),
        ("Squeeze", ["u", "last"], ["s"], {}),
        ("Concat", ["s", "t"], ["c"], {"axis": 2}),
        ("Split", ["c"], ["a", "b"], {"axis": 2, "num_outputs": 2}),
        ("Split", ["b", "sizes"], ["d", "e"], {"axis": -1}),
        ("Flatten", ["e"], ["f"], {"axis": 2}),
        ("Tile", ["f", "repeats"], ["g"], {}),
        ("Pad", ["g", "pads", "one"], ["h"], {}),
        ("Trilu", ["h", "up"], ["y"], {"upper": 0}),
        ("Pad", ["x", "edge"], ["z"], {"mode": "edge"}),
    ]
    constants = {
        "last": ints(-1),
        "sizes": ints(2, 4),
        "repeats": ints(1, 2),
        "pads": ints(0, 1, 0, 2),
        "one": np.array(1, np.float32),
        "up": np.array(1),
        "edge": ints(0, 0, 1, 0, 0, 2),
    }
    check(model(nodes, {"x": x}, constants, outputs=("a", "y", "z")), {"x": x})


def test_a_reversing_slice() -> None:
    x = rand(2, 6)
    constants = {"s": ints(-1), "e": ints(-(2**31) + 1), "a": ints(1), "t": ints(-1)}
    check(model([("Slice", ["x", *constants], ["y"], {})], {"x": x}, constants), {"x": x})


def test_lookups() -> None:
    x, places = rand(3, 6, 4), np.array([[0, -1], [2, 1], [1, 1]])
    along = np.array([[0, 3, -1, 2]] * 3)
    nodes = [
        ("Gather", ["table.weight", "i"], ["e"], {}),
        ("Gather", ["x", "two"], ["s"], {"axis": 1}),
        ("Gather", ["x", "some"], ["r"], {"axis": -1}),
        ("Gather", ["x", "i"], ["g"], {"axis": 1}),
        ("GatherElements", ["s", "j"], ["k"], {"axis": 1}),
        ("OneHot", ["i", "depth", "values"], ["o"], {}),
    ]
    constants = {
        "table.weight": rand(9, 5),
        "two": np.array(2),
        "some": ints(3, 0),
        "depth": ints(4),
        "values": np.array([-1, 2], np.float32),
    }
    arrays = {"x": x, "i": np.abs(places), "j": along}
    proto = model(nodes, arrays, constants, outputs=("e", "s", "r", "g", "k", "o"))
    module = check(proto, arrays)
    assert isinstance(module.table, nn.Embedding)


def test_scatters() -> None:
    x = rand(2, 4)
    nodes = [
        ("ScatterND", ["x", "i", "u"], ["a"], {}),
        ("ScatterElements", ["x", "j", "v"], ["b"], {"axis": 1}),
        ("GatherND", ["x", "i"], ["c"], {}),
    ]
    constants = {
        "i": np.array([[0, 1], [0, 3]]),
        "u": rand(2),
        "j": np.array([[1, 0]]),
        "v": rand(1, 2),
    }
    check(model(nodes, {"x": x}, constants, outputs=("a", "b", "c")), {"x": x})


@pytest.mark.parametrize(
    "attributes",
    [
        {
            "mode": "nearest",
            "coordinate_transformation_mode": "asymmetric",
            "nearest_mode": "floor",
        },
        {"mode": "linear", "coordinate_transformation_mode": "half_pixel"},
        {"mode": "linear", "coordinate_transformation_mode": "align_corners"},
        {"mode": "cubic", "coordinate_transformation_mode": "half_pixel"},
    ],
)
@pytest.mark.parametrize("by", ["scales", "sizes"])
def test_resize(attributes: dict[str, Any], by: str) -> None:
    scales, sizes = np.array([1, 1, 2, 2], np.float32), ints(2, 6, 10, 14)
    names = ["x", "", "c"] if by == "scales" else ["x", "", "", "c"]
    constants = {"c": scales if by == "scales" else sizes}
    proto = model(
        [("Resize", names, ["y"], attributes)], {"x": X}, constants, shapes={"x": [2, 6, 5, 7]}
    )
    to_module(proto, examples={"x": X})


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_blocks(mode: str) -> None:
    x = rand(2, 8, 4, 6)
    nodes = [
        ("DepthToSpace", ["x"], ["d"], {"blocksize": 2, "mode": mode}),
        ("SpaceToDepth", ["d"], ["y"], {"blocksize": 2}),
    ]
    check(model(nodes, {"x": x}), {"x": x})


def test_shape_chains_stay_integers_and_dynamic() -> None:
    """Shape → Gather → Concat → Reshape and Expand, as TorchScript writes attention."""
    x = rand(2, 5, 12)
    nodes = [
        ("Shape", ["x"], ["shape"], {}),
        ("Gather", ["shape", "zero"], ["b"], {}),
        ("Gather", ["shape", "one"], ["l"], {}),
        ("Unsqueeze", ["b", "front"], ["b1"], {}),
        ("Unsqueeze", ["l", "front"], ["l1"], {}),
        ("Concat", ["b1", "l1", "heads"], ["target"], {"axis": 0}),
        ("Reshape", ["x", "target"], ["split"], {}),
        ("Transpose", ["split"], ["t"], {"perm": [0, 2, 1, 3]}),
        ("Mul", ["l", "two"], ["l2"], {}),
        ("Div", ["l2", "two"], ["l3"], {}),
        ("Unsqueeze", ["l3", "front"], ["l4"], {}),
        ("Concat", ["b1", "l4", "minus"], ["back"], {"axis": 0}),
        ("Equal", ["back", "minusses"], ["asks"], {}),
        ("Where", ["asks", "filler", "back"], ["goal"], {}),
        ("Range", ["zero", "l", "one"], ["steps"], {}),
        ("Cast", ["steps"], ["float"], {"to": TensorProto.FLOAT}),
        ("Unsqueeze", ["float", "end"], ["column"], {}),
        ("Add", ["x", "column"], ["moved"], {}),
        ("Expand", ["moved", "goal2"], ["wide"], {}),
        ("Concat", ["b1", "l1", "twelve"], ["goal2"], {"axis": 0}),
        ("ConstantOfShape", ["goal2"], ["zeros"], {}),
        ("Add", ["wide", "zeros"], ["y"], {}),
    ]
    nodes[18], nodes[19] = nodes[19], nodes[18]  # in order of use
    constants = {
        "zero": np.array(0),
        "one": np.array(1),
        "two": np.array(2),
        "front": ints(0),
        "end": ints(1),
        "heads": ints(3, 4),
        "minus": ints(-1),
        "minusses": ints(-1, -1, -1),
        "filler": ints(7, 7, 12),
        "twelve": ints(12),
    }
    proto = model(nodes, {"x": x}, constants, outputs=("t", "y"), shapes={"x": ["n", "l", 12]})
    module = check(proto, {"x": x})
    check(proto, {"x": rand(3, 8, 12)})
    assert not any(node.target == "item" for node in module.graph.nodes)


def test_constants_fold_and_shared_weights_stay_shared() -> None:
    ids = np.array([[1, 2, 3]])
    nodes = [
        ("Gather", ["words.weight", "ids"], ["e"], {}),
        ("Transpose", ["words.weight"], ["t"], {"perm": [1, 0]}),
        ("MatMul", ["e", "t"], ["m"], {}),
        ("Add", ["half", "half"], ["whole"], {}),
        ("Mul", ["m", "whole"], ["y"], {}),
    ]
    constants = {"words.weight": rand(9, 5), "half": np.array(0.5, np.float32)}
    module = check(model(nodes, {"ids": ids}, constants), {"ids": ids})
    (weight,) = module.parameters()
    linear = next(part for part in module.modules() if isinstance(part, nn.Linear))
    assert linear.weight is module.words.weight is weight


def test_patterns_become_layers() -> None:
    x = rand(2, 3, 8)
    nodes = [
        ("ReduceMean", ["x", "last"], ["mean"], {}),
        ("Sub", ["x", "mean"], ["centred"], {}),
        ("Pow", ["centred", "two"], ["square"], {}),
        ("ReduceMean", ["square", "last"], ["variance"], {}),
        ("Add", ["variance", "eps"], ["shifted"], {}),
        ("Sqrt", ["shifted"], ["deviation"], {}),
        ("Div", ["centred", "deviation"], ["standard"], {}),
        ("Mul", ["standard", "norm.weight"], ["scaled"], {}),
        ("Add", ["scaled", "norm.bias"], ["n"], {}),
        ("Div", ["n", "root"], ["d"], {}),
        ("Erf", ["d"], ["e"], {}),
        ("Add", ["e", "one"], ["f"], {}),
        ("Mul", ["n", "f"], ["g"], {}),
        ("Mul", ["g", "half"], ["gelu"], {}),
        ("Sigmoid", ["gelu"], ["s"], {}),
        ("Mul", ["gelu", "s"], ["swish"], {}),
        ("Add", ["swish", "three"], ["p"], {}),
        ("Clip", ["p", "zero", "six"], ["q"], {}),
        ("Mul", ["swish", "q"], ["r"], {}),
        ("Div", ["r", "six"], ["y"], {}),
    ]
    numbers = {"two": 2, "eps": 1e-5, "root": 2**0.5, "one": 1, "half": 0.5, "three": 3, "zero": 0}
    constants = {n: np.array(v, np.float32) for n, v in {**numbers, "six": 6}.items()}
    constants |= {"last": ints(-1), "norm.weight": rand(8), "norm.bias": rand(8)}
    module = check(model(nodes, {"x": x}, constants), {"x": x}, 1e-4)
    kinds = {type(node_module) for node_module in module.children()} | {type(module.norm)}
    assert {nn.LayerNorm, nn.GELU, nn.SiLU, nn.Hardswish} <= kinds
    assert not [node for node in module.graph.nodes if node.op == "call_function"]


def test_what_a_pattern_shares_with_others_stays_beside_it() -> None:
    x = rand(2, 4)
    nodes = [
        ("Mul", ["x", "x"], ["square"], {}),
        ("Div", ["square", "root"], ["d"], {}),
        ("Erf", ["d"], ["e"], {}),
        ("Add", ["e", "one"], ["f"], {}),
        ("Mul", ["half", "f"], ["g"], {}),
        ("Mul", ["square", "g"], ["y"], {}),
    ]
    constants = {
        n: np.array(v, np.float32) for n, v in (("root", 2**0.5), ("one", 1), ("half", 0.5))
    }
    module = check(model(nodes, {"x": x}, constants, outputs=("y", "e")), {"x": x}, 1e-4)
    assert any(isinstance(part, nn.GELU) for part in module.modules())
    assert any(node.target is torch.erf for node in module.graph.nodes)


@pytest.mark.parametrize("order", range(4))
def test_the_orders_of_gelu(order: int) -> None:
    x = rand(2, 4)
    last = [
        [("Mul", ["x", "half"], ["h"], {}), ("Mul", ["h", "f"], ["y"], {})],
        [("Mul", ["f", "half"], ["h"], {}), ("Mul", ["x", "h"], ["y"], {})],
        [("Mul", ["f", "x"], ["h"], {}), ("Mul", ["h", "half"], ["y"], {})],
        [("Mul", ["x", "f"], ["h"], {}), ("Div", ["h", "two"], ["y"], {})],
    ]
    nodes = [
        ("Mul", ["x", "root"], ["d"], {}),
        ("Erf", ["d"], ["e"], {}),
        ("Add", ["one", "e"], ["f"], {}),
        *last[order],
    ]
    numbers = {"root": 2**-0.5, "one": 1, "half": 0.5, "two": 2}
    constants = {name: np.array(value, np.float32) for name, value in numbers.items()}
    module = check(model(nodes, {"x": x}, constants), {"x": x}, 1e-4)
    assert [type(part) for part in module.children()] == [nn.GELU]


@pytest.mark.parametrize(
    "case",
    [
        graphs.linear(),
        graphs.several(),
        graphs.passthrough(),
        graphs.no_weights(),
        graphs.perceptron(),
        graphs.convolutional(),
        graphs.half(),
    ],
    ids=lambda case: case.name,
)
def test_whole_networks(case: graphs.Case, tmp_path: Path) -> None:
    sealed = case.write(tmp_path / "model")
    assert convertible(sealed)
    module = to_module(sealed.forms["onnx"])
    form = form_of(sealed.signature)
    for rows in (1, 5):
        arrays = case.inputs(rows, rows)
        with torch.no_grad():
            found = form.run(module, {n: torch.tensor(a) for n, a in arrays.items()})
        assert parity(case.answer(arrays), {n: t.numpy() for n, t in found.items()}).ok


@pytest.mark.parametrize(
    "case", [graphs.perceptron(), graphs.convolutional()], ids=lambda c: c.name
)
def test_learns_and_exports_again(case: graphs.Case, tmp_path: Path) -> None:
    sealed = case.write(tmp_path / "model")
    module, form = to_module(sealed.forms["onnx"]), form_of(sealed.signature)
    arrays = case.inputs(4, 0)
    exported = export(module, form, arrays)
    declared = declare(exported.proto, sealed.signature)
    assert graph.signature(declared) == sealed.signature
    more = case.inputs(7, 1)
    assert parity(case.answer(more), Runner(declared).run(more)).ok

    tensors = {name: torch.tensor(array) for name, array in arrays.items()}
    (goal,) = (torch.tensor(array) + 0.5 for array in case.answer(arrays).values())
    optimiser = torch.optim.SGD(module.parameters(), lr=1e-3)

    def loss() -> Any:
        (output,) = form.run(module, tensors).values()
        return (output - goal).square().mean()

    before = loss()
    before.backward()
    assert all(parameter.grad is not None for parameter in module.parameters())
    optimiser.step()
    assert loss() < before


def test_names_that_python_does_not_allow(tmp_path: Path) -> None:
    x = rand(2, 3)
    arrays = {"a.b": x, "a/b": x, "class": x, "0": x}
    proto = model([("Sum", list(arrays), ["y:0"], {})], arrays, outputs=("y:0",))
    module = check(proto, arrays)
    assert len({node.name for node in module.graph.nodes if node.op == "placeholder"}) == 4


def test_the_module_survives_copying() -> None:
    import copy

    x = rand(2, 4)
    nodes = [("MatMul", ["x", "fc.weight"], ["m"], {}), ("Relu", ["m"], ["y"], {})]
    module = check(model(nodes, {"x": x}, {"fc.weight": rand(4, 5)}), {"x": x})
    again = copy.deepcopy(module)
    assert torch.equal(again(torch.tensor(x)), module(torch.tensor(x)))
    assert list(again.state_dict()) == ["fc.weight"]


def test_what_has_no_translation_is_named(tmp_path: Path) -> None:
    x = rand(2, 3)
    proto = model([("Det", ["x"], ["y"], {})], {"x": x[None]}, shapes={"x": ["n", 3, 3]})
    assert unsupported(proto) == {"Det": "node0"}
    with pytest.raises(NotApplicable, match=r"Det 'node0' .*pruning"):
        to_module(proto)
    graph.write(proto, tmp_path / "onnx" / "model.onnx")
    answer = convertible(Model.seal(tmp_path, graph.signature(proto)))
    assert not answer
    assert "Det ('node0')" in answer.reason


def test_an_attribute_without_a_translation_is_named() -> None:
    x = rand(2, 6)
    proto = model([("ArgMax", ["x"], ["y"], {"select_last_index": 1})], {"x": x})
    with pytest.raises(NotApplicable, match="ArgMax 'node0' takes the last of equals"):
        to_module(proto)


def test_a_difference_is_traced_to_its_first_tensor() -> None:
    x = rand(2, 4)
    nodes = [
        ("Gemm", ["x", "a.weight"], ["one"], {}),
        ("Relu", ["one"], ["two"], {}),
        ("Gemm", ["two", "b.weight"], ["y"], {}),
    ]
    proto = model(nodes, {"x": x}, {"a.weight": rand(4, 5), "b.weight": rand(5, 3)})
    module = to_module(proto)
    assert first_difference(proto, module, {"x": x}) is None
    with torch.no_grad():
        module.b.weight.mul_(1.5)
    assert first_difference(proto, module, {"x": x}) == "y"
    with torch.no_grad():
        module.a.weight.mul_(1.5)
    assert first_difference(proto, module, {"x": x}) == "one"


def test_the_list_of_operators_is_what_is_registered() -> None:
    from strop.models.onnx_ops.builder import handlers

    assert set(handlers()) == SUPPORTED - {"Constant"}


def _pooled(step: int) -> tuple[onnx.ModelProto, Arrays]:
    """The mean over all places, then a view by `as_strided` as torch's exporter writes it."""
    x = rand(2, 6, 5, 7)
    nodes = [
        ("ReduceMean", ["x", "places"], ["mean"], {}),
        ("Reshape", ["mean", "minus"], ["flat"], {}),
        ("Shape", ["x"], ["batch"], {"start": 0, "end": 1}),
        ("Squeeze", ["batch"], ["rows"], {}),
        ("Range", ["zero", "rows", "one"], ["row"], {}),
        ("Mul", ["row", "step"], ["start"], {}),
        ("Unsqueeze", ["start", "rest"], ["column"], {}),
        ("Add", ["column", "channels"], ["index"], {}),
        ("Gather", ["flat", "index"], ["view"], {}),
        ("Reshape", ["view", "goal"], ["y"], {}),
    ]
    constants = {
        "places": ints(-1, -2),
        "minus": ints(-1),
        "zero": np.array(0),
        "one": np.array(1),
        "step": np.array(step),
        "rest": ints(1, 2, 3),
        "channels": np.arange(6).reshape(1, 6, 1, 1),
        "goal": ints(-1, 6),
    }
    proto = model(nodes, {"x": x}, constants)
    typed = helper.make_tensor_value_info("view", TensorProto.FLOAT, ["n", 6, 1, 1])
    del proto.graph.value_info[:]
    proto.graph.value_info.append(typed)
    return proto, {"x": x}


@pytest.mark.parametrize(("step", "lookups"), [(6, 0), (5, 1)])
def test_a_strided_view_of_everything_is_the_tensor_itself(step: int, lookups: int) -> None:
    proto, arrays = _pooled(step)
    module = check(proto, arrays)
    called = [getattr(node.target, "__name__", "") for node in module.graph.nodes]
    assert called.count("_take") == lookups


class _Transformer(nn.Module):
    """One block of attention with a mask, as BERT has it."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(50, 24), nn.Embedding(16, 24)
        self.query, self.key, self.value, self.mix = (nn.Linear(24, 24) for _ in range(4))
        self.norm1, self.norm2 = nn.LayerNorm(24), nn.LayerNorm(24)
        self.wide, self.narrow = nn.Linear(24, 48), nn.Linear(48, 24)

    def forward(self, ids: Any, mask: Any) -> Any:
        batch, length = ids.shape
        x = self.words(ids) + self.places(torch.arange(length))
        heads = (
            layer(x).view(batch, length, 3, 8).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        query, key, value = heads
        scores = query @ key.transpose(-1, -2) / 8**0.5
        scores = scores.masked_fill(mask[:, None, None] == 0, -1e4)
        mixed = (scores.softmax(-1) @ value).transpose(1, 2).reshape(batch, length, 24)
        x = self.norm1(x + self.mix(mixed))
        x = self.norm2(x + self.narrow(nn.functional.gelu(self.wide(x))))
        weight = mask[..., None].float()
        return nn.functional.normalize((x * weight).sum(1) / weight.sum(1), dim=-1)


@pytest.mark.parametrize("dynamo", [True, False])
def test_a_transformer_of_either_exporter(dynamo: bool, tmp_path: Path) -> None:
    from strop.models.module_export import _attempt, _quiet
    from strop.models.module_form import ModuleForm

    torch.manual_seed(0)
    original = _Transformer().eval()
    form = ModuleForm(None, True, ("ids", "mask"), ("output",), ("output",), "")
    arrays = {"ids": np.arange(20).reshape(2, 10), "mask": np.ones((2, 10), np.int64)}
    arrays["mask"][1, 6:] = 0
    axes = {name: {0: "batch", 1: "length"} for name in arrays}
    with _quiet(), torch.no_grad():
        proto = _attempt(original, form, arrays, axes, dynamo=dynamo)
    module = to_module(proto, examples=arrays)
    longer = {"ids": np.arange(36).reshape(3, 12), "mask": np.ones((3, 12), np.int64)}
    with torch.no_grad():
        for inputs in (arrays, longer):
            tensors = {name: torch.tensor(array) for name, array in inputs.items()}
            (found,) = form_of(graph.signature(proto)).run(module, tensors).values()
            assert torch.allclose(found, original(**tensors), atol=1e-5)
    kinds = [type(part) for part in module.modules()]
    assert [kinds.count(kind) for kind in (nn.Embedding, nn.Linear, nn.LayerNorm)] == [2, 6, 2]
    assert kinds.count(nn.GELU) == 1
    sizes = {tuple(weight.shape) for weight in original.parameters()}
    assert {tuple(weight.shape) for weight in module.parameters()} <= sizes | {(1, 16)}
    again = export(module, form_of(graph.signature(proto)), arrays)
    assert again.method == "dynamo, free batch and lengths"
    outputs = Runner(again.proto).run(longer)
    assert parity(Runner(proto).run(longer), outputs).ok


def _two_layers(*, shared: bool) -> onnx.ModelProto:
    """Two products with weights and biases; the biases are equal, and may be one constant."""
    constants = {"a": rand(4, 4), "b": rand(4, 3)[:, :3], "first": rand(4), "second": rand(3)}
    second = "second"
    if shared:
        constants["b"], second = rand(4, 5)[:, :4], "first"
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["h"]),
        helper.make_node("Add", ["h", "first"], ["g"]),
        helper.make_node("Relu", ["g"], ["r"]),
        helper.make_node("MatMul", ["r", "b"], ["s"]),
        helper.make_node("Add", ["s", second], ["y"]),
    ]
    return model(nodes, {"x": rand(2, 4)}, constants)


def test_new_weights_go_back_into_the_graph() -> None:
    proto, arrays = _two_layers(shared=False), {"x": rand(5, 4)}
    module = to_module(proto)
    before = Runner(proto).run(arrays)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter))
        expected = module(torch.tensor(arrays["x"])).numpy()
    again = with_weights(proto, module)
    assert again is not None
    assert [node.op_type for node in again.graph.node] == [n.op_type for n in proto.graph.node]
    found = Runner(again).run(arrays)
    np.testing.assert_allclose(found["y"], expected, atol=1e-5)
    assert np.abs(found["y"] - before["y"]).max() > 0.1
    np.testing.assert_array_equal(Runner(proto).run(arrays)["y"], before["y"])


def test_weights_that_do_not_fit_the_graph_stay_out_of_it() -> None:
    proto = _two_layers(shared=True)
    module = to_module(proto)
    biases = [part.bias for part in module.modules() if isinstance(part, nn.Linear)]
    with torch.no_grad():
        for bias in biases:
            bias.add_(1.0)
    assert with_weights(proto, module) is not None  # both are what the one constant is now
    with torch.no_grad():
        biases[0].add_(1.0)
    assert with_weights(proto, module) is None
    assert with_weights(_two_layers(shared=False), module) is None
    assert with_weights(proto, nn.Linear(4, 4)) is None

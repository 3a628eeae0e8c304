from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from strop.models.runner import Runner
from strop.techniques.folding import prepare

from . import small_graphs as small
from .small_graphs import floats, node


def test_batch_norms_fold_and_means_become_pools(tmp_path: Path) -> None:
    model = small.seal(
        tmp_path,
        [
            node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
            node("BatchNormalization", ["c", "g", "b", "m", "v"], ["n"], epsilon=1e-3),
            node("ReduceMean", ["n"], ["y"], axes=[-1, 2]),
        ],
        {
            "w": floats(8, 3, 3, 3, seed=1),
            "g": floats(8, seed=2),
            "b": floats(8, seed=3),
            "m": floats(8, seed=4),
            "v": np.abs(floats(8, seed=5)) + 0.1,
        },
        inputs={"x": ("n", 3, 6, 6)},
        outputs={"y": ("n", 8, 1, 1)},
    )
    before = small.proto_of(model)
    untouched = before.SerializeToString()
    after = prepare(before)
    assert before.SerializeToString() == untouched
    assert [entry.op_type for entry in after.graph.node] == ["Conv", "GlobalAveragePool"]
    assert len({entry.name for entry in after.graph.node}) == 2
    assert len(after.graph.initializer) == 2
    x = {"x": floats(2, 3, 6, 6, seed=6)}
    np.testing.assert_allclose(Runner(after).run(x)["y"], small.run(model, x)["y"], atol=1e-5)


def test_a_convolution_that_is_read_twice_keeps_its_batch_norm(tmp_path: Path) -> None:
    one = np.ones(4, np.float32)
    model = small.seal(
        tmp_path,
        [
            node("Conv", ["x", "w"], ["c"], name="same"),
            node("BatchNormalization", ["c", "one", "one", "one", "one"], ["n"], name="same"),
            node("Add", ["c", "n"], ["y"]),
        ],
        {"w": floats(4, 3, 1, 1), "one": one},
        inputs={"x": ("n", 3, 4, 4)},
        outputs={"y": ("n", 4, 4, 4)},
    )
    after = prepare(small.proto_of(model))
    assert [entry.op_type for entry in after.graph.node] == ["Conv", "BatchNormalization", "Add"]
    assert len({entry.name for entry in after.graph.node}) == 3


@pytest.mark.parametrize("pooled", [False, True])
def test_a_batch_norm_behind_a_relu_leaves_a_sum(tmp_path: Path, pooled: bool) -> None:
    norms = ["g", "b", "m", "v"]
    pool = [node("MaxPool", ["n"], ["p"], kernel_shape=[2, 2], strides=[2, 2], pads=[1] * 4)]
    model = small.seal(
        tmp_path,
        [
            node("Conv", ["x", "w", "c"], ["a"], pads=[1] * 4),
            node("Relu", ["a"], ["r"]),
            node("BatchNormalization", ["r", *norms], ["n"], epsilon=1e-3),
            *(pool if pooled else []),
            # Its padding is of zeros, which is why the sum cannot go on into its bias.
            node("Conv", ["p" if pooled else "n", "w2"], ["y"], pads=[1] * 4),
        ],
        {
            "w": floats(8, 3, 3, 3, seed=1),
            "c": floats(8, seed=2),
            "g": np.abs(floats(8, seed=3)),
            "b": floats(8, seed=4),
            "m": floats(8, seed=5),
            "v": np.abs(floats(8, seed=6)) + 0.1,
            "w2": floats(4, 8, 3, 3, seed=7),
        },
        inputs={"x": ("n", 3, 6, 6)},
        outputs={"y": ("n", 4, None, None)},
    )
    after = prepare(small.proto_of(model))
    kinds = [entry.op_type for entry in after.graph.node]
    assert kinds == ["Conv", "Relu", *(["MaxPool"] if pooled else []), "Add", "Conv"]
    onnx.checker.check_model(after, full_check=True)
    x = {"x": floats(2, 3, 6, 6, seed=8)}
    np.testing.assert_allclose(Runner(after).run(x)["y"], small.run(model, x)["y"], atol=1e-4)


def test_a_batch_norm_that_turns_signs_stays_behind_its_relu(tmp_path: Path) -> None:
    one = np.ones(4, np.float32)
    model = small.seal(
        tmp_path,
        [
            node("Conv", ["x", "w"], ["c"]),
            node("Relu", ["c"], ["r"]),
            node("BatchNormalization", ["r", "minus", "one", "one", "one"], ["y"]),
        ],
        {"w": floats(4, 3, 1, 1), "one": one, "minus": -one},
        inputs={"x": ("n", 3, 4, 4)},
        outputs={"y": ("n", 4, 4, 4)},
    )
    after = prepare(small.proto_of(model))
    assert [entry.op_type for entry in after.graph.node] == ["Conv", "Relu", "BatchNormalization"]


def test_biases_join_products_of_matrices_alone(tmp_path: Path) -> None:
    def joined(folder: str, rows: tuple[str | int, ...], bias: np.ndarray) -> list[str]:
        nodes = [node("MatMul", ["x", "w"], ["p"]), node("Add", ["b", "p"], ["y"])]
        constants = {"w": floats(6, 4, seed=1), "b": bias}
        model = small.seal(
            tmp_path / folder, nodes, constants, inputs={"x": rows}, outputs={"y": None}
        )
        after = prepare(small.proto_of(model))
        x = {"x": floats(3, *[2] * (len(rows) - 2), 6, seed=2)}
        before = small.run(model, x)["y"]
        np.testing.assert_allclose(Runner(after).run(x)["y"], before, atol=1e-5)
        return [entry.op_type for entry in after.graph.node]

    assert joined("a", ("n", 6), floats(1, 4, seed=3)) == ["Gemm"]
    assert joined("b", ("n", 6), floats(4, seed=3)) == ["Gemm"]
    assert joined("c", ("n", 6), floats(3, 4, seed=3)) == ["MatMul", "Add"]
    assert joined("d", ("n", 2, 6), floats(4, seed=3)) == ["MatMul", "Add"]

from __future__ import annotations

import re

import numpy as np
import pytest

from strop.models import graph, load
from strop.models.runner import run

RNG = np.random.default_rng(0)


def weight(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("batch", [1, 10])
def test_a_fixed_batch_is_freed(save, tmp_path, batch):
    path = save(
        f"g (float[{batch}, 4] x) => (float[{batch}, 3] y) {{ h = MatMul(x, w) y = Relu(h) }}",
        weights={"w": weight(4, 3)},
    )
    model = load(path, workdir=tmp_path / "model")
    assert str(model.signature) == "(x: float32[batch, 4]) -> (y: float32[batch, 3])"
    assert model.meta["batch"] == {"declared": batch, "freed": True, "reason": ""}
    before, after = graph.read(path), graph.read(model.forms["onnx"])
    x = weight(3 * batch, 4)
    expected = [run(before, {"x": x[i : i + batch]})["y"] for i in range(0, len(x), batch)]
    np.testing.assert_allclose(run(after, {"x": x})["y"], np.concatenate(expected), rtol=1e-5)


@pytest.mark.parametrize(
    "target", [[2, 12], [2, -1], [-1, 12], [8, 3], [2, 2, -1, 3]], ids=lambda shape: str(shape)
)
def test_reshapes_to_a_constant_batch_are_loosened(save, tmp_path, target):
    rest = np.zeros((2, 12)).reshape(target).shape
    dims = ", ".join(map(str, rest))
    flat = "y = Reshape(z, back)" if rest[0] != 2 else "y = Identity(z)"
    out = "2, 12" if rest[0] != 2 else dims
    path = save(
        f"g (float[2, 4, 3] x) => (float[{out}] y) {{ r = Relu(x) z = Reshape(r, s) {flat} }}",
        weights={"s": np.array(target), "back": np.array([2, 12])},
    )
    model = load(path, workdir=tmp_path / "model")
    assert model.meta["batch"]["freed"], model.meta["batch"]["reason"]
    x = weight(5, 4, 3)
    found = run(graph.read(model.forms["onnx"]), {"x": x})["y"]
    np.testing.assert_allclose(found.reshape(5, 12), np.maximum(x, 0).reshape(5, 12))


def test_a_reshape_shared_with_a_weight_keeps_the_weights_shape(save, tmp_path):
    path = save(
        """g (float[1, 6] x) => (float[1, 6] y) {
            a = Reshape(x, s) b = Reshape(w, s) y = Add(a, b)
        }""",
        weights={"s": np.array([1, 6]), "w": weight(2, 3)},
    )
    model = load(path, workdir=tmp_path / "model")
    assert model.meta["batch"]["freed"]
    assert run(graph.read(model.forms["onnx"]), {"x": weight(4, 6)})["y"].shape == (4, 6)


def test_zero_initial_states_of_a_fixed_batch_are_dropped(save, tmp_path):
    path = save(
        """g (float[1, 7, 3] x) => (float[1, 7, 5] y) {
            t = Transpose<perm = [1, 0, 2]>(x)
            h, n, c = LSTM<hidden_size = 5>(t, w, r, , , zero, zero)
            q = Squeeze(h, axis)
            y = Transpose<perm = [1, 0, 2]>(q)
        }""",
        weights={
            "w": weight(1, 20, 3),
            "r": weight(1, 20, 5),
            "zero": np.zeros((1, 1, 5), np.float32),
            "axis": np.array([1]),
        },
    )
    model = load(path, workdir=tmp_path / "model")
    assert model.meta["batch"]["freed"], model.meta["batch"]["reason"]
    x = weight(4, 7, 3)
    before, after = graph.read(path), graph.read(model.forms["onnx"])
    expected = np.concatenate([run(before, {"x": row[None]})["y"] for row in x])
    np.testing.assert_allclose(run(after, {"x": x})["y"], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        # the mean runs over the batch, so that rows depend on one another
        ("g (float[2, 4] x) => (float[2, 4] y) { m = ReduceMean<axes=[0]>(x) y = Sub(x, m) }",
         "rows are not independent"),
        ("g (float[2, 4] x) => (float[4] y) { y = ReduceMean<axes=[0], keepdims=0>(x) }",
         "no batch dimension"),
        ("g (float[2, 4] x, float[3, 4] z) => (float[2, 3] y)"
         " { t = Transpose(z) y = MatMul(x, t) }", r"first dimensions differ \(2, 3\)"),
        ("g (float[N, 4] x, float[1, 4] z) => (float[N, 4] y) { y = Add(x, z) }",
         r"first dimensions differ \(N, 1\)"),
        ("g (float[2, 4] x) => (float[2, 4] y) { y = Add(x, w) }",
         r"has the shape \[2, 4\] for 1 rows"),
        ("g (float[3000, 4] x) => (float[3000, 4] y) { y = Relu(x) }", "hardly a batch"),
    ],
)  # fmt: skip
def test_a_batch_that_matters_stays_fixed_and_says_why(save, tmp_path, text, reason):
    path = save(text, weights={"w": weight(2, 4)} if "w)" in text else None)
    declared = graph.signature(graph.read(path))
    lines: list[str] = []
    model = load(path, workdir=tmp_path / "model", emit=lines.append)
    assert model.signature == declared
    assert model.meta["batch"]["freed"] is False
    assert re.search(reason, model.meta["batch"]["reason"])
    assert any("stays fixed" in line for line in lines)


def test_a_free_batch_is_left_alone(save, tmp_path):
    path = save("g (float[N, 4] x) => (float[N, 4] y) { y = Relu(x) }")
    model = load(path, workdir=tmp_path / "model")
    assert model.meta["batch"] == {"declared": None, "freed": False, "reason": ""}
    assert str(model.signature.inputs[0]) == "x: float32[N, 4]"


def test_the_check_runs_on_the_users_examples(save, tmp_path):
    # An index of 1000 is out of this table's range, one from the examples is not.
    path = save(
        "g (int64[1, 4] ids) => (float[1, 4, 8] y) { o = Sub(ids, base) y = Gather(w, o) }",
        weights={"w": weight(10, 8), "base": np.array(1000)},
    )
    alone = load(path, workdir=tmp_path / "alone")
    assert alone.meta["batch"]["freed"] is False
    examples = {"ids": RNG.integers(1000, 1010, (6, 4))}
    model = load(path, workdir=tmp_path / "model", examples=examples)
    assert model.meta["batch"]["freed"] is True

"""A small trained network on real data: scikit-learn's digits, a two-layer perceptron."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


@functools.cache
def fitted(hidden: int = 256, rounds: int = 12) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Weights and the examples that they were not fitted on."""
    from sklearn.datasets import load_digits
    from sklearn.neural_network import MLPClassifier

    images, target = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32)
    # No round gains the tolerance: it ends by patience, and sklearn warns of nothing.
    network = MLPClassifier(
        (hidden,), max_iter=rounds, n_iter_no_change=rounds - 2, random_state=0, tol=1.0
    )
    network.fit(images[:400], target[:400])
    weights = [network.coefs_[0], network.intercepts_[0], network.coefs_[1], network.intercepts_[1]]
    return (
        [np.asarray(weight, np.float32) for weight in weights],
        images[400:],
        np.asarray(target[400:], np.int64),
    )


def write_model(path: Path, hidden: int = 256, rounds: int = 12, *, pixels: str = "pixels") -> Path:
    """The network as ONNX: `pixels` float32[n, 64] to `logits` float32[n, 10]."""
    weights, _, _ = fitted(hidden, rounds)
    names = ("w1", "b1", "w2", "b2")
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", [pixels, "w1", "b1"], ["hidden"]),
            helper.make_node("Relu", ["hidden"], ["active"]),
            helper.make_node("Gemm", ["active", "w2", "b2"], ["logits"]),
        ],
        "digits",
        [helper.make_tensor_value_info(pixels, TensorProto.FLOAT, ["n", 64])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 10])],
        [
            numpy_helper.from_array(weight, name)
            for weight, name in zip(weights, names, strict=True)
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return path


def write_data(path: Path, rows: int | None = None, **more: np.ndarray) -> Path:
    """The examples as ``.npz``."""
    _, images, target = fitted()
    np.savez(path, pixels=images[:rows], target=target[:rows], **more)
    return path

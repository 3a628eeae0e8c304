"""Keras 3 files, opened on the backend of PyTorch."""

from __future__ import annotations

import os

import numpy as np
import pytest

from strop.errors import ModelError
from strop.models import load
from strop.models.runner import Runner

pytest.importorskip("torch")
os.environ.setdefault("KERAS_BACKEND", "torch")
keras = pytest.importorskip("keras", reason="needs the extra keras")
pytestmark = pytest.mark.filterwarnings("ignore:::keras", "ignore:::h5py")


@pytest.fixture(scope="module")
def network():
    keras.utils.set_random_seed(0)
    image, size = keras.Input((8, 8, 1), name="image"), keras.Input((2,), name="size")
    hidden = keras.layers.Conv2D(4, 3, activation="relu")(image)
    hidden = keras.layers.GlobalAveragePooling2D()(hidden)
    both = keras.layers.Concatenate()([hidden, size])
    logits = keras.layers.Dense(3, name="logits")(keras.layers.Dropout(0.5)(both))
    return keras.Model([image, size], [logits, keras.layers.Dense(1, name="score")(size)])


def test_a_network_takes_and_gives_by_name(network, tmp_path):
    import onnx

    network.save(tmp_path / "net.keras")
    random = np.random.default_rng(0)
    examples = {
        "size": random.normal(size=(4, 2)).astype(np.float32),
        "image": random.normal(size=(4, 8, 8, 1)).astype(np.float32),
    }
    model = load(tmp_path / "net.keras", workdir=tmp_path / "model", examples=examples)
    assert model.meta["original_format"] == "keras"
    assert str(model.signature) == (
        "(image: float32[batch, 8, 8, 1], size: float32[batch, 2]) -> "
        "(logits: float32[batch, 3], score: float32[batch, 1])"
    )
    expected = network([examples["image"], examples["size"]], training=False)
    found = Runner(onnx.load(model.forms["onnx"])).run(examples)
    for name, tensor in zip(("logits", "score"), expected, strict=True):
        wanted = tensor.detach().cpu().numpy()
        np.testing.assert_allclose(found[name], wanted, rtol=1e-4, atol=1e-5)


def test_a_layer_that_is_code_is_refused(tmp_path):
    x = keras.Input((2,), name="x")
    keras.Model(x, keras.layers.Lambda(lambda x: x * 2)(x)).save(tmp_path / "net.keras")
    with pytest.raises(ModelError, match=r"'net\.keras' cannot be opened by Keras") as caught:
        load(tmp_path / "net.keras", workdir=tmp_path / "model")
    assert "\n" not in str(caught.value)


def test_a_live_network_is_asked_for_as_a_file(network, tmp_path):
    with pytest.raises(ModelError, match=r"model\.save"):
        load(network, workdir=tmp_path / "model")


def test_what_is_no_keras_file_ends_in_one_line(tmp_path):
    (tmp_path / "net.keras").write_bytes(b"nothing")
    with pytest.raises(ModelError, match="cannot be opened by Keras"):
        load(tmp_path / "net.keras", workdir=tmp_path / "model")

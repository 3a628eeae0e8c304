import gzip
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")
safetensors = pytest.importorskip("safetensors")

from strop.demo import train  # noqa: E402
from strop.demo.resnet import ResNet  # noqa: E402


@pytest.fixture
def folder(tmp_path):
    """Two classes that any network tells apart: the left or the right half is bright."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 64), ("t10k", 16)):
        labels = rng.integers(2, size=count)
        pixels = rng.integers(60, size=(count, 28, 28))
        pixels[labels == 1, :14] += 180
        for kind, array in (("images-idx3", pixels), ("labels-idx1", labels)):
            header = b"\0\0\x08" + bytes([array.ndim])
            header += b"".join(length.to_bytes(4, "big") for length in array.shape)
            raw = gzip.compress(header + array.astype(np.uint8).tobytes())
            (tmp_path / f"{split}-{kind}-ubyte.gz").write_bytes(raw)
    return tmp_path


def test_training_learns(folder):
    model, accuracy = train.train(folder, epochs=8, batch=8)
    assert not model.training
    assert accuracy >= 0.9


def test_training_repeats_with_the_seed(folder):
    model, _ = train.train(folder, epochs=2, batch=16, seed=1)
    again, _ = train.train(folder, epochs=2, batch=16, seed=1)
    other, _ = train.train(folder, epochs=2, batch=16, seed=2)
    torch.testing.assert_close(model.state_dict(), again.state_dict())
    assert not torch.equal(model.head.weight, other.head.weight)


def test_the_command_writes_a_checkpoint_that_loads(folder, monkeypatch, capsys):
    output = folder / "net.safetensors"
    options = f"--data {folder} --output {output} --epochs 2 --batch 16 --seed 3"
    monkeypatch.setattr(sys, "argv", ["train", *options.split()])
    train.main()
    with safetensors.safe_open(output, "pt") as file:
        assert file.metadata()["seed"] == "3"
        ResNet().load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    assert str(output) in capsys.readouterr().out


def test_accuracy_counts_the_rows_that_are_right():
    class Brightest(torch.nn.Module):
        def forward(self, image):
            return image.flatten(1)[:, :10]

    pixels = torch.zeros(4, 1, 28, 28, dtype=torch.uint8)
    pixels[torch.arange(4), 0, 0, torch.tensor([3, 1, 4, 1])] = 255
    assert train.accuracy(Brightest(), pixels, torch.tensor([3, 1, 4, 5])) == 0.75


def test_augmented_images_are_shifted_copies_within_bounds():
    torch.manual_seed(0)
    pixels = torch.zeros(200, 1, 28, 28, dtype=torch.uint8)
    pixels[:, 0, 10, 6] = 255
    images = train._augment(pixels)
    assert images.shape == (200, 1, 28, 28)
    _, _, rows, columns = images.nonzero().unbind(1)
    assert images.sum() == 200  # one bright pixel each, moved and not copied
    assert set(rows.tolist()) == {8, 9, 10, 11, 12}
    assert set(columns.tolist()) == {4, 5, 6, 7, 8, 19, 20, 21, 22, 23}

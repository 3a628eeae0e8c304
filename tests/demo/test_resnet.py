import inspect

import pytest

from strop.demo import fashion

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

from safetensors import safe_open  # noqa: E402

from strop.demo import resnet  # noqa: E402


def test_the_checkpoint_is_accurate():
    image, target = fashion.load_test()
    image, target = torch.from_numpy(image[:2_000]), torch.from_numpy(target[:2_000])
    with torch.inference_mode():
        logits = torch.cat([resnet.build()(part) for part in image.split(250)])
    assert logits.shape == (2_000, 10)
    assert (logits.argmax(1) == target).float().mean() >= 0.925


def test_the_network_is_what_its_documentation_says():
    model = resnet.build()
    assert not model.training
    assert list(inspect.signature(model.forward).parameters) == ["image"]
    assert sum(p.numel() for p in model.parameters()) == 696_042
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_the_checkpoint_states_where_it_comes_from():
    assert resnet.CHECKPOINT.stat().st_size < 3e6
    with safe_open(resnet.CHECKPOINT, "pt") as file:
        metadata = file.metadata()
    assert metadata.keys() == {"accuracy", "epochs", "seed", "torch"}
    assert float(metadata["accuracy"]) >= 0.925


def test_scores_of_an_image_do_not_depend_on_its_neighbours():
    torch.manual_seed(0)
    model, image = resnet.build(), torch.rand(4, 1, 28, 28)
    with torch.inference_mode():
        torch.testing.assert_close(model(image)[2:3], model(image[2:3]))

"""Folders of Hugging Face: safetensors alone, code with trust alone, the processor comes along."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from strop.errors import ModelError, TrustError
from strop.models import Model, load
from strop.models.hugging_face import open_folder, processor_files
from strop.models.module_files import PROCESSOR
from strop.models.module_form import open_module
from strop.models.runner import Runner


def write_config(folder: Path, **more: object) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "bert", **more}))
    return folder


def test_code_of_the_folder_needs_trust(tmp_path):
    folder = write_config(tmp_path / "net", auto_map={"AutoModel": "modeling.Net"})
    with pytest.raises(TrustError, match=r"'net' brings Python code of its own.*--trust"):
        load(folder, workdir=tmp_path / "model")


@pytest.mark.parametrize(
    "more",
    [
        {"text_config": {"auto_map": {"AutoModel": "modeling.Net"}}},
        {"attn_implementation": "someone/kernel"},
        {"_attn_implementation": {"": "someone/kernel"}},
        {"vision_config": {"experts_implementation": "someone/kernel"}},
    ],
)
def test_code_named_anywhere_needs_trust(tmp_path, more):
    folder = write_config(tmp_path / "net", **more)
    with pytest.raises(TrustError, match=r"auto_map|_implementation"):
        load(folder, workdir=tmp_path / "model")


def test_an_implementation_of_the_package_is_no_code(tmp_path):
    folder = write_config(tmp_path / "net", attn_implementation="sdpa", auto_map={})
    with pytest.raises(ModelError, match="holds no safetensors"):
        load(folder, workdir=tmp_path / "model")


def test_an_adapter_is_refused(tmp_path):
    folder = write_config(tmp_path / "net")
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"adapter.*merge_and_unload"):
        load(folder, workdir=tmp_path / "model")


def test_a_processor_file_that_leads_elsewhere_is_not_copied(tmp_path):
    folder = write_config(tmp_path / "net")
    secret = tmp_path / "secret"
    secret.write_text("the user's own")
    (folder / "vocab.txt").symlink_to(secret)
    with pytest.raises(ModelError, match=r"'vocab\.txt' in 'net' is a link to somewhere else"):
        processor_files(folder)


def test_links_into_the_store_of_a_download_are_followed(tmp_path):
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "abc").write_text("[PAD]")
    folder = tmp_path / "snapshots" / "revision"
    folder.mkdir(parents=True)
    write_config(folder)
    (folder / "vocab.txt").symlink_to("../../blobs/abc")
    (folder / "merges.txt").symlink_to("vocab.txt")
    assert processor_files(folder) == [folder / "vocab.txt", folder / "merges.txt"]


def test_pickled_weights_are_refused_whoever_trusts_them(tmp_path):
    folder = write_config(tmp_path / "net", architectures=["BertModel"])
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    with pytest.raises(ModelError, match=r"pickles \(pytorch_model\.bin\).*save_pretrained"):
        load(folder, workdir=tmp_path / "model", trust=True)


@pytest.mark.parametrize("text", ["{", "[]", '{"name": "something else"}'])
def test_another_config_is_no_model(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ModelError, match=r"config\.json"):
        load(tmp_path, workdir=tmp_path / "model")


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    transformers = pytest.importorskip("transformers", reason="needs the extra hf")
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=16,
        num_labels=3,
    )
    folder = tmp_path_factory.mktemp("hub") / "tiny-bert"
    network = transformers.BertForSequenceClassification(config).eval()
    network.save_pretrained(folder)
    (folder / "vocab.txt").write_text("[PAD]\n[UNK]\nhello\n")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    return folder, network


def test_a_network_is_opened_as_the_class_that_its_configuration_names(classifier, tmp_path):
    import onnx
    import torch

    folder, network = classifier
    random = np.random.default_rng(0)
    examples = {
        "input_ids": random.integers(1, 50, (4, 12)),
        "attention_mask": np.ones((4, 12), np.int64),
    }
    model = load(folder, workdir=tmp_path / "model", examples=examples)
    assert model.meta["original_format"] == "transformers"
    assert model.meta["class"] == "BertForSequenceClassification"
    assert model.signature.input_names == ("input_ids", "attention_mask")
    assert model.signature.output_names == ("logits",)
    with torch.no_grad():
        expected = network(**{n: torch.tensor(a) for n, a in examples.items()}).logits.numpy()
    found = Runner(onnx.load(model.forms["onnx"])).run(examples)["logits"]
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
    kept = {path.name for path in (model.path / PROCESSOR).iterdir()}
    assert kept == {"vocab.txt", "tokenizer_config.json"}
    form, module = open_module(Model.open(model.path))
    with torch.no_grad():
        eager = form.run(module, {n: torch.tensor(a) for n, a in examples.items()})
    np.testing.assert_allclose(eager["logits"].numpy(), expected, rtol=1e-4, atol=1e-5)


def copied(classifier, tmp_path, **changes):
    folder = tmp_path / "net"
    shutil.copytree(classifier[0], folder)
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_weights_that_are_missing_are_not_drawn_at_random(classifier, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = copied(classifier, tmp_path)
    state = load_file(folder / "model.safetensors")
    del state["classifier.weight"]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks weights of its Bert.*: classifier\.weight"):
        load(folder, workdir=tmp_path / "model")


@pytest.mark.parametrize("name", ["AutoTokenizer", "pipeline", "modeling_utils"])
def test_what_is_no_network_is_not_called(classifier, tmp_path, name):
    opened = open_folder(copied(classifier, tmp_path, architectures=[name]))
    assert type(opened).__name__ == "BertModel"


def test_damaged_weights_end_in_one_line(classifier, tmp_path):
    folder, _ = classifier
    damaged = tmp_path / "net"
    damaged.mkdir()
    (damaged / "config.json").write_bytes((folder / "config.json").read_bytes())
    (damaged / "model.safetensors").write_bytes(b"\0" * 40)
    with pytest.raises(ModelError, match="'net' cannot be opened by transformers") as caught:
        load(damaged, workdir=tmp_path / "model")
    assert "\n" not in str(caught.value)

"""Folders of Hugging Face: safetensors alone, code with trust alone, the processor comes along."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from strop.errors import ModelError, TrustError
from strop.models import Model, load
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


def test_damaged_weights_end_in_one_line(classifier, tmp_path):
    folder, _ = classifier
    damaged = tmp_path / "net"
    damaged.mkdir()
    (damaged / "config.json").write_bytes((folder / "config.json").read_bytes())
    (damaged / "model.safetensors").write_bytes(b"\0" * 40)
    with pytest.raises(ModelError, match="'net' cannot be opened by transformers") as caught:
        load(damaged, workdir=tmp_path / "model")
    assert "\n" not in str(caught.value)

"""Options and serve.yaml: what they mean, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from strop.errors import InputError
from strop.serve.codec import Limits
from strop.serve.config import ServerConfig, default_name, from_options

from . import serving


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return serving.affine(tmp_path / "affine.onnx")


def test_paths_and_names(tmp_path: Path, model: Path) -> None:
    bundle = tmp_path / "out" / "bundle"
    bundle.mkdir(parents=True)
    (bundle / "manifest.json").write_text("{}")
    config = from_options([str(model), f"other={model}", f"b={tmp_path / 'out'}"])
    assert {name: it.path for name, it in config.models.items()} == {
        "affine": model,
        "other": model,
        "b": bundle,
    }
    odd = serving.affine(tmp_path / "a=b.onnx")
    assert list(from_options([str(odd)]).models) == ["a-b"]
    assert default_name(Path("../..")) != ".."


def test_a_file_and_options_beside_it(tmp_path: Path, model: Path) -> None:
    path = tmp_path / "serve.yaml"
    path.write_text(
        """
host: 0.0.0.0
http: 9000
grpc: off
slo: 30ms
token_file: tokens
limits: {body: 1MB, header_seconds: 2s, connections: 7}
defaults: {workers: 2}
models:
  one: affine.onnx
  two: {path: affine.onnx, slo: 5ms, max_batch: 4, policy: fixed, delay: 1ms, cache: 1MiB}
"""
    )
    config = from_options(
        [f"three={model}"], config=path, server={"http": "9001"}, defaults={"max_batch": 8}
    )
    assert (config.host, config.http, config.grpc, config.metrics) == ("0.0.0.0", 9001, None, 8002)
    assert config.token_file == tmp_path / "tokens"
    assert config.limits == Limits(body=1_000_000, header_seconds=2.0, connections=7)
    one, two, three = (config.models[name] for name in ("one", "two", "three"))
    assert (one.slo, one.max_batch, one.workers) == (0.03, 8, 2)
    assert (two.slo, two.max_batch, two.policy, two.delay) == (0.005, 4, "fixed", 0.001)
    assert (two.cache_bytes, two.workers) == (1 << 20, 2)
    assert three.slo == 0.03
    assert one.path == model


def test_grpc_that_is_asked_for_is_required(model: Path) -> None:
    assert not from_options([str(model)]).grpc_required
    assert from_options([str(model)], server={"grpc": "9001"}).grpc_required


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"models": []}, "no model"),
        ({"models": ["absent.onnx"]}, "does not exist"),
        ({"models": ["{folder}"]}, "holds no bundle"),
        ({"models": ["{model}", "{model}"]}, "two models are called 'affine'"),
        ({"models": ["a/b={model}"]}, "cannot be a model's name"),
        ({"models": ["stats={model}"]}, "cannot be a model's name"),
        ({"models": ["..={model}"]}, "cannot be a model's name"),
        ({"models": ["x="]}, "names no path"),
        ({"defaults": {"slo": "fast"}}, "slo: 'fast' is not a span of time"),
        ({"defaults": {"cache": "much"}}, "size"),
        ({"defaults": {"max_batch": 0}}, "max_batch"),
        ({"defaults": {"priority": 257}}, "default_priority is 257, the last is 256"),
        ({"server": {"http": "99999"}}, "port"),
        ({"server": {"http": "8001"}}, "two fronts want the port 8001"),
        ({"server": {"http": "off", "grpc": "off"}}, "neither"),
        ({"yaml": "slow: 20ms"}, "unknown key 'slow'"),
        ({"yaml": "limits: {speed: 1}"}, "unknown key 'speed'"),
        ({"yaml": "limits: {body: 0}"}, "limits.body"),
        ({"yaml": "models: {x: {max_batch: 3}}"}, "no path"),
        ({"yaml": "models: {x: {path: affine.onnx, colour: red}}"}, "models.x: unknown .*'colour'"),
        ({"yaml": "models: {x: {path: affine.onnx, policy: none}}"}, "models.x: policy is 'none'"),
        ({"yaml": "models: {x: {path: affine.onnx, slo: soon}}"}, "models.x: slo: 'soon' is not"),
        ({"yaml": "models: {affine: affine.onnx}"}, "call one of them other=.*affine.onnx"),
        ({"yaml": "models: [affine.onnx]"}, "mapping"),
        ({"yaml": "max_batch: many"}, "whole number"),
        ({"yaml": "log_requests: 3"}, "neither true nor false"),
        ({"yaml": "a: [b"}, "YAML"),
    ],
)
def test_what_is_refused(options: dict[str, Any], word: str, tmp_path: Path, model: Path) -> None:
    (tmp_path / "empty").mkdir()
    given = dict(options)
    models = given.pop("models", [str(model)])
    models = [it.format(folder=tmp_path / "empty", model=model) for it in models]
    if (text := given.pop("yaml", None)) is not None:
        given["config"] = tmp_path / "serve.yaml"
        given["config"].write_text(text)
    with pytest.raises(InputError, match=word):
        from_options(models, **given)


def test_a_config_is_checked_however_it_is_made() -> None:
    with pytest.raises(InputError, match="no model"):
        ServerConfig(models={})

"""Small graphs, written as ONNX text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

Save = Callable[..., Path]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Write a graph given as ONNX text, with named arrays as its weights."""

    def write(
        text: str,
        *,
        opset: int = 17,
        ir: int = 8,
        domains: dict[str, int] | None = None,
        weights: dict[str, Any] | None = None,
        name: str = "model.onnx",
    ) -> Path:
        proto = parse(text, opset=opset, ir=ir, domains=domains, weights=weights)
        path = tmp_path / name
        path.write_bytes(proto.SerializeToString())
        return path

    return write


def parse(
    text: str,
    *,
    opset: int = 17,
    ir: int = 8,
    domains: dict[str, int] | None = None,
    weights: dict[str, Any] | None = None,
) -> onnx.ModelProto:
    imports = {"": opset, **(domains or {})}
    listed = ", ".join(f'"{domain}": {version}' for domain, version in imports.items())
    proto = onnx.parser.parse_model(f"<ir_version: {ir}, opset_import: [{listed}]>\n{text}")
    for name, array in (weights or {}).items():
        proto.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    return proto


@pytest.fixture
def make() -> Callable[..., onnx.ModelProto]:
    return parse

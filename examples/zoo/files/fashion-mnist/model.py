"""The torch module behind model.onnx: `strop optimize model.py:build --trust`."""

from strop.demo.resnet import build

__all__ = ["build"]

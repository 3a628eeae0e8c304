"""A small trained network and its 10,000 labelled test images, to try strop on."""

from __future__ import annotations

from pathlib import Path


def resnet_path() -> Path:
    """The file that defines the network: ``{resnet_path()}:build`` is a model for strop."""
    return Path(__file__).with_name("resnet.py")

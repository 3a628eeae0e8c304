"""`strop demo`: the network and the images that come with strop, through the whole search."""

from __future__ import annotations

import tempfile
from pathlib import Path

from strop.cli.optimize import search
from strop.demo import fashion
from strop.search import Request


def run(output: Path, budget: str, *, as_json: bool) -> int:
    """Optimise the Fashion-MNIST network within one point of accuracy."""
    from strop.demo import resnet_path

    with tempfile.TemporaryDirectory(prefix="strop-demo-") as folder:
        data = Path(folder) / "fashion-mnist.npz"
        fashion.write_npz(data)
        return search(
            Request(
                model=f"{resnet_path()}:build",
                data=data,
                within="1%",
                output=output,
                budget=budget,
                trust=True,
            ),
            as_json=as_json,
        )

"""Nine classic image networks as graphs of the `onnx` package: their weights are untrained.

They come with code that fills the weights with constants, so only importing, fusion and speed can
be tried on them; there is no data, since nothing can be claimed about their answers.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import onnx
from packages import Unavailable


def fetch(output: Path, cache: Path) -> str:
    source = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
    graphs = sorted(source.glob("*.onnx"))
    if not graphs:
        raise Unavailable("this release of the onnx package holds no light graphs")
    for graph in graphs:
        shutil.copy(graph, output)
        onnx.checker.check_model(onnx.load(graph))
    (output / "LICENSE.txt").write_text("The graphs come from the onnx package, Apache-2.0.\n")
    return f"{len(graphs)} graphs: {', '.join(graph.stem for graph in graphs)}"

"""One network in three formats, as its makers packaged it: SavedModel, `.tflite` and ONNX.

Basic Pitch hears which notes sound in a recording; its weights are Spotify's. It is here to try how
models come in, so there is no data: the three have each other to agree with.
"""

from __future__ import annotations

from pathlib import Path

import onnx
from packages import extract, wheel

SOURCE = "basic_pitch/saved_models/icassp_2022"
FILES = {
    "model.onnx": "nmp.onnx",
    "model.tflite": "nmp.tflite",
    "savedmodel/saved_model.pb": "nmp/saved_model.pb",
    "savedmodel/variables/variables.index": "nmp/variables/variables.index",
    "savedmodel/variables/variables.data-00000-of-00001": (
        "nmp/variables/variables.data-00000-of-00001"
    ),
}


def fetch(output: Path, cache: Path) -> str:
    archive = wheel("basic-pitch==0.4.0", cache)
    for name, source in FILES.items():
        (output / name).parent.mkdir(parents=True, exist_ok=True)
        extract(archive, f"{SOURCE}/{source}", output / name)
    onnx.checker.check_model(onnx.load(output / "model.onnx"))
    (output / "LICENSE.txt").write_text(
        "Model: Basic Pitch by Spotify, as packaged by basic-pitch 0.4.0, Apache-2.0.\n"
    )
    return "SavedModel, .tflite and ONNX of one network"

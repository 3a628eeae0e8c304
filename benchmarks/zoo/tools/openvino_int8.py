"""OpenVINO as it comes and at FP32, and NNCF's default post-training quantisation for it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from handing import Hand

# Both packages fall back to a stub when openvino_telemetry cannot be imported: nothing is reported.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]

import nncf  # noqa: E402
import openvino  # noqa: E402


def main() -> None:
    hand = Hand("openvino", "nncf")
    network = openvino.Core().read_model(hand.model)
    compiled = openvino.compile_model(network, "CPU")
    precision = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    default = {"precision": precision, "dynamic_quantization": True}
    exact = {"precision": "f32"}

    def plain(path: Path) -> str:
        openvino.save_model(network, path, compress_to_fp16=False)
        return f"precision hint left alone: {precision}"

    def quantised(path: Path, **options: Any) -> str:
        rows = nncf.Dataset(list(hand.rows()))
        result = nncf.quantize(openvino.Core().read_model(hand.model), rows, **options)
        openvino.save_model(result, path)
        return ""

    def for_transformers(path: Path) -> str:
        quantised(path, model_type=nncf.ModelType.TRANSFORMER)
        return "model_type=TRANSFORMER, as its documentation asks for"

    hand.build("OpenVINO", plain, engine="openvino", options=default)
    hand.again("OpenVINO f32", "OpenVINO", exact)
    hand.build("NNCF", quantised, engine="openvino", options=default)
    hand.again("NNCF f32", "NNCF", exact)
    if hand.transformer:
        hand.build("NNCF transformer", for_transformers, engine="openvino", options=default)
        hand.again("NNCF transformer f32", "NNCF transformer", exact)
    hand.close()


if __name__ == "__main__":
    main()

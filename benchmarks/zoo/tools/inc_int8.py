"""Intel Neural Compressor's ONNX quantisation with its defaults.

Since 3.0 that lives in a package of its own, onnx-neural-compressor; neural-compressor 3.x itself
quantises PyTorch and TensorFlow models only.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from handing import Hand
from onnx_neural_compressor import data_reader
from onnx_neural_compressor.quantization import config, quantize


class Reader(data_reader.CalibrationDataReader):
    def __init__(self, hand: Hand) -> None:
        self._hand = hand
        self.rewind()

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._rows, None)

    def rewind(self) -> None:
        self._rows: Iterator[dict[str, np.ndarray]] = self._hand.rows()


def main() -> None:
    hand = Hand("onnx-neural-compressor", "onnxruntime", "onnx")

    def static(path: Path) -> str:
        quantize(str(hand.model), str(path), config.StaticQuantConfig(Reader(hand)))
        return ""

    def dynamic(path: Path) -> str:
        quantize(str(hand.model), str(path), config.DynamicQuantConfig())
        return ""

    hand.build("INC static INT8", static)
    hand.build("INC dynamic INT8", dynamic, invariant=False)
    hand.close()


if __name__ == "__main__":
    main()

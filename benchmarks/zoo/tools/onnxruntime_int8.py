"""ONNX Runtime's own quantisation: dynamic, and static QDQ per tensor (default) and per channel."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from handing import Hand
from onnxruntime.quantization import CalibrationDataReader, quantize_dynamic, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process


class Reader(CalibrationDataReader):
    def __init__(self, rows: Iterator[dict[str, np.ndarray]]) -> None:
        self._rows = rows

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._rows, None)


def main() -> None:
    hand = Hand("onnxruntime", "onnx")
    ready, note = prepared(hand)

    def plain(path: Path) -> str:
        shutil.copyfile(hand.model, path)
        return ""

    def dynamic(path: Path) -> str:
        quantize_dynamic(ready, path)
        return note

    def static(path: Path, *, per_channel: bool) -> str:
        quantize_static(ready, path, Reader(hand.rows()), per_channel=per_channel)
        return note

    hand.build("ORT fp32", plain)
    hand.build("ORT dynamic INT8", dynamic, invariant=False)
    hand.build("ORT static INT8", lambda path: static(path, per_channel=False))
    hand.build("ORT static INT8 per channel", lambda path: static(path, per_channel=True))
    hand.close()


def prepared(hand: Hand) -> tuple[Path, str]:
    """The model after the pre-processing that the documentation asks for, and what it took."""
    path = hand.folder / "prepared.onnx"
    for note, options in (
        ("", {}),
        ("pre-processed without symbolic shape inference", {"skip_symbolic_shape": True}),
    ):
        try:
            quant_pre_process(hand.model, path, **options)
        except Exception:  # it fails in many ways; the next step down is what users do
            continue
        return path, note
    return hand.model, "not pre-processed: that fails"


if __name__ == "__main__":
    main()

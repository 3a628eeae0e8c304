"""Olive's static and dynamic ONNX quantisation passes with their defaults."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

os.environ |= {"OLIVE_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "1"}
sys.path.insert(0, str(Path(__file__).parent))  # Olive imports this file once more, for its data

import numpy as np
from handing import Hand
from olive.data.registry import Registry


class Rows:
    """Examples as Olive's data loader wants them: (inputs, label) by index."""

    def __init__(self, path: str) -> None:
        with np.load(path) as arrays:
            self._arrays = dict(arrays)

    def __len__(self) -> int:
        return len(next(iter(self._arrays.values())))

    def __getitem__(self, row: int) -> tuple[dict[str, np.ndarray], int]:
        return {name: array[row] for name, array in self._arrays.items()}, 0


@Registry.register_dataset("zoo_calibration")
def zoo_calibration(path: str, **_: Any) -> Rows:
    return Rows(path)


def main() -> None:
    from olive.workflows import run

    hand = Hand("olive-ai", "onnxruntime", "onnx")

    def quantise(path: Path, kind: str, **options: Any) -> str:
        work = hand.folder / f"work-{kind}"
        run(
            {
                "input_model": {"type": "ONNXModel", "model_path": str(hand.model)},
                "data_configs": [
                    {
                        "name": "calibration",
                        "user_script": str(Path(__file__).resolve()),
                        "load_dataset_config": {"type": "zoo_calibration", "path": sys.argv[2]},
                        "dataloader_config": {"batch_size": 1},
                    }
                ],
                "passes": {"quantise": {"type": kind, **options}},
                "output_dir": str(work / "out"),
                "cache_dir": str(work / "cache"),
            }
        )
        found = sorted((work / "out").rglob("*.onnx"))
        if not found:
            raise RuntimeError("Olive wrote no model")
        shutil.copyfile(found[0], path)
        return ""

    hand.build(
        "Olive static INT8",
        lambda path: quantise(path, "OnnxStaticQuantization", data_config="calibration"),
    )
    hand.build(
        "Olive dynamic INT8",
        lambda path: quantise(path, "OnnxDynamicQuantization"),
        invariant=False,
    )
    hand.close()


if __name__ == "__main__":
    main()

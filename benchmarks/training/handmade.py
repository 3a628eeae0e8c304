"""Recipes that somebody who knows the field would write down, without a search.

Both distil a smaller network from the demo's with `strop.training` for the whole budget, turn it
to INT8 with the stock tools, without training, and take the fastest result that keeps the
accuracy on training images held out. The student and its width, the order of steps and the tools
are fixed beforehand; nothing is tried but the engine at the end.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import beside
import numpy as np
import stock
import torch
from torch import Tensor, nn

from strop import data as datasets
from strop.data import Dataset
from strop.demo import resnet
from strop.models.module_form import ModuleForm
from strop.records import SessionSpec, Signature, TensorSpec
from strop.training import TrainReport, TrainSettings, train

NARROW, RATIO = 8, 0.5
_HELD, _CALIBRATION, _BATCH = 2000, 512, 64
_FORM = ModuleForm(None, True, ("image",), ("output",), ("output",), "")
_ENDLESS = 1e4  # passes: the time decides
_CHOICE = "chosen.json"


def narrow_student(example: Tensor) -> nn.Module:
    """The demo's network with a quarter of its channels, from nothing."""
    torch.manual_seed(0)
    return resnet.ResNet(width=NARROW)


def pruned_student(example: Tensor) -> nn.Module:
    """The demo's network without half of its channels, those of least magnitude."""
    import torch_pruning as tp

    model = resnet.build().train()
    last = [layer for layer in model.modules() if isinstance(layer, nn.Linear)][-1]
    tp.pruner.BasePruner(
        model,
        example,
        importance=tp.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=RATIO,
        ignored_layers=[last],
        round_to=8,
    ).step()
    return model


RECIPES: dict[str, tuple[str, Callable[[Tensor], nn.Module]]] = {
    "by-hand-narrow": (f"a student of width {NARROW}", narrow_student),
    "by-hand-pruned": (f"{RATIO:.0%} of the channels pruned by magnitude", pruned_student),
}


def make(
    piece: str, images: Tensor, labels: Tensor, folder: Path, seconds: float, *, within: float
) -> dict[str, Any]:
    """Train, quantise, choose the engine; what came of it, not yet timed for the table.

    Parameters
    ----------
    images, labels
        float32[n, 1, 28, 28] and int64[n]; the last 2,000 judge and are not trained on.
    folder
        Takes the models, and what :func:`delivered` opens.
    seconds
        Of training. Quantisation and the choice come on top.
    within
        How much accuracy on the images that judge the INT8 model may lose.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text, student_of = RECIPES[piece]
    student = student_of(images[:2])
    found = _distil(student, images, labels, folder, seconds)
    shutil.rmtree(folder / "training")  # the next run is a new one
    path = folder / "float.onnx"
    stock.export(student.eval(), images[:2], path)
    calibration = [{"image": images[i : i + 1].numpy()} for i in range(_CALIBRATION)]
    specs = {
        "ONNX Runtime's static INT8": beside.of_onnx(_static(path, calibration, folder)),
        **beside.quantised(path, calibration, folder, transformer=False),
    }
    held = {"image": images[-_HELD:].numpy()}, labels[-_HELD:].numpy()
    quality = {name: _accuracy(spec, *held) for name, spec in specs.items()}
    least = _accuracy(beside.of_onnx(path), *held) - within
    kept = {name: spec for name, spec in specs.items() if quality[name] >= least}
    if not kept:
        kept = {(best := max(quality, key=lambda name: quality[name])): specs[best]}
    calls = beside.seconds(kept, {"image": images[:_BATCH].numpy()})
    fastest = min(calls, key=lambda name: calls[name])
    spec = kept[fastest]
    choice = {"engine": spec.engine, "file": Path(spec.artifact).name, "options": spec.options}
    (folder / _CHOICE).write_text(json.dumps(choice, indent=1) + "\n")
    return {
        "delivered": f"by hand: {text}, distilled; {fastest}",
        "training": {"seconds": found.seconds, **found.facts()},
        "engines": {
            name: {"held_out": quality[name], "seconds": calls.get(name)} for name in specs
        },
    }


def is_made(folder: Path) -> bool:
    """Whether :func:`make` has ended there."""
    return (folder / _CHOICE).exists()


def delivered(folder: Path) -> SessionSpec:
    """What opens the model that was chosen."""
    choice = json.loads((folder / _CHOICE).read_text())
    signature = beside.of_onnx(folder / "float.onnx").signature
    spec = beside.of_onnx(folder / "float.onnx", choice["engine"], **choice["options"])
    artifact = str((folder / choice["file"]).resolve())
    return spec.model_copy(update={"artifact": artifact, "signature": signature})


def files(folder: Path) -> list[Path]:
    """The model that was chosen, with its weights."""
    chosen = folder / json.loads((folder / _CHOICE).read_text())["file"]
    return [chosen, chosen.with_suffix(".bin")]


def _distil(
    student: nn.Module, images: Tensor, labels: Tensor, folder: Path, seconds: float
) -> TrainReport:
    """Soft targets and labels until the time is over, on all images but those that judge."""
    spec = TensorSpec(name="image", dtype="float32", shape=("n", 1, 28, 28))
    arrays = {"image": images.numpy(), "target": labels.numpy()}
    whole = datasets.read(arrays, Signature(inputs=(spec,), outputs=()))
    rows = np.arange(len(whole))
    parts: list[Dataset] = [whole.subset(part) for part in (rows[:-_HELD], rows[-_HELD:])]
    return train(
        student,
        form=_FORM,
        teacher=resnet.build(),
        data=parts[0],
        judge=parts[1],
        settings=TrainSettings(seconds=seconds, epochs=_ENDLESS, patience=None, examples="all"),
        workdir=folder / "training",
        emit=lambda line: print(f"  {line}", flush=True),
    )


def _static(model: Path, calibration: Sequence[beside.Arrays], folder: Path) -> Path:
    """ONNX Runtime's static quantisation as its guide has it, a scale for each channel."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._rows = iter(calibration)

        def get_next(self) -> dict[str, Any] | None:
            row = next(self._rows, None)
            return None if row is None else dict(row)

    ready, path = folder / "ready.onnx", folder / "static.onnx"
    quant_pre_process(model, ready)
    quantize_static(ready, path, Reader(), quant_format=QuantFormat.QDQ, per_channel=True)
    return path


def _accuracy(spec: SessionSpec, images: beside.Arrays, labels: np.ndarray) -> float:
    return float((beside.outputs(spec, images).argmax(1) == labels).mean())

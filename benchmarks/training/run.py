"""Fashion-MNIST: each training technique alone, all together, and the stock pipelines.

    python benchmarks/training/run.py --data /usr/share/datasets/fashion-mnist [--only PIECE ...]

Pieces: ``prune``, ``distil``, ``qat``, ``int8`` (post-training alone), ``joint`` (everything),
``nncf-qat`` and ``torch-pruning`` (the stock pipelines, with the same time to train), ``trouble``
(the network of trouble.py). Each runs alone, for ``--budget``, and is merged into results.json and
README.md beside this file. Stock pipelines are fine-tuned on the same examples as strop's, with
the demo's network as their start, and shrink until they would lose more than the tolerance.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import report
import torch
import trouble
from torch import Tensor, nn
from torch.nn import functional

import strop
from strop.amounts import parse_seconds
from strop.demo import fashion, resnet

POST = ("cleanup", "int8-static", "int8-nncf")
SEARCHES = {
    "prune": ("prune", "cleanup"),
    "distil": ("distil", "cleanup"),
    "qat": ("qat", "cleanup"),
    "int8": POST,
    "joint": (),
}
STOCK = ("nncf-qat", "torch-pruning")
MODEL = f"{Path(resnet.__file__)}:build"
WITHIN = 0.01
TRAIN_SHARE = 0.55  # of the budget, as strop has it
RATIOS = (0.75, 0.5, 0.3)
BATCH = 128


def main() -> int:
    """Run the pieces that were asked for, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="Fashion-MNIST's four .gz files")
    parser.add_argument("--work", type=Path, default=Path("training-benchmark"))
    parser.add_argument("--only", nargs="+", choices=[*SEARCHES, *STOCK, "trouble"])
    parser.add_argument("--budget", default="30m", help="of each piece")
    parser.add_argument("--batch", type=int, default=64, help="batch size to search for")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    files = _files(options.data, options.work)
    for piece in options.only or [*SEARCHES, *STOCK, "trouble"]:
        print(f"== {piece}, {options.budget}", flush=True)
        if piece == "trouble":
            trouble.run(*files, options.work / piece, budget=options.budget, batch=options.batch)
            continue
        folder = options.work / piece
        if piece in SEARCHES:
            found = report.optimize(
                MODEL,
                data=files[1],
                train=files[0],
                output=folder,
                budget=options.budget,
                within=f"{WITHIN:.0%}",
                batch=options.batch,
                techniques=SEARCHES[piece],
            )
            bundle = strop.load(folder / "bundle")
            size = Path(found["bundle"])
            run: report.Run = bundle.run
        else:
            folder.mkdir(parents=True, exist_ok=True)
            train = nncf_qat if piece == "nncf-qat" else torch_pruning
            seconds = TRAIN_SHARE * parse_seconds(options.budget)
            path, text = train(*_arrays(files[0]), folder, seconds)
            found, size, run = {"delivered": text}, path, report.ort(path)
        found |= measured(resnet.build(), run, size, *_arrays(files[1]), work=options.work)
        report.merge(piece, {**found, "budget": options.budget})
    return 0


def measured(
    original: nn.Module, run: report.Run, size: Path, images: Tensor, labels: Tensor, *, work: Path
) -> dict[str, Any]:
    """Quality on all test images, times beside eager PyTorch and ORT FP32, and size."""
    name = "image"
    whole = work / f"{type(original).__name__}.onnx"
    if not whole.exists():
        _export(original, images[:2], whole)
    calls, arrays = {}, images.numpy()
    for batch in (1, 64):
        given = {name: arrays[:batch]}
        calls |= {
            f"mine {batch}": (run, given),
            f"eager {batch}": (report.eager(original), given),
            f"ort {batch}": (report.ort(whole), given),
        }
    seconds = report.timed(calls)
    ratios = {
        f"{other} {batch}": seconds[f"{other} {batch}"] / seconds[f"mine {batch}"]
        for other in ("eager", "ort")
        for batch in (1, 64)
    }
    targets = labels.numpy()
    bytes_ = size.stat().st_size if size.is_file() else _model_bytes(size)
    return {
        "quality": report.accuracy(run, {name: arrays}, targets),
        "original_quality": report.accuracy(report.ort(whole), {name: arrays}, targets),
        "ratios": ratios,
        "call_seconds": seconds,
        "smaller": whole.stat().st_size / bytes_,
    }


def nncf_qat(images: Tensor, labels: Tensor, folder: Path, seconds: float) -> tuple[Path, str]:
    """NNCF's quantisation-aware training as its guide has it: quantise, fine-tune, export."""
    from strop.engines import quiet_telemetry

    quiet_telemetry()
    import nncf

    model = resnet.build()
    calibration = nncf.Dataset([images[i : i + 1] for i in range(256)])
    quantised = nncf.quantize(model, calibration, preset=nncf.QuantizationPreset.MIXED)
    _fine_tune(quantised, images, labels, seconds, rate=1e-4)
    path = folder / "nncf-qat.onnx"
    quantised = nncf.strip(quantised.cpu().eval())
    _export(quantised, images[:2], path, dynamo=False)
    return path, f"NNCF {nncf.__version__} QAT, ONNX Runtime"


def torch_pruning(images: Tensor, labels: Tensor, folder: Path, seconds: float) -> tuple[Path, str]:
    """torch-pruning with fine-tuning: the greatest ratio that keeps the validation accuracy."""
    import torch_pruning as tp

    held = 2000
    base = resnet.build()
    before = trouble.accuracy(base, images[-held:], labels[-held:])
    chosen: tuple[nn.Module, float] | None = None
    for ratio in RATIOS:  # the greatest first, with an equal share of the time
        model = copy.deepcopy(base).train()
        last = [layer for layer in model.modules() if isinstance(layer, nn.Linear)][-1]
        tp.pruner.BasePruner(
            model,
            images[:2],
            importance=tp.importance.GroupMagnitudeImportance(p=2),
            pruning_ratio=ratio,
            ignored_layers=[last],
            round_to=8,
        ).step()
        _fine_tune(model, images[:-held], labels[:-held], seconds / len(RATIOS), rate=1e-3)
        model.eval()
        if trouble.accuracy(model, images[-held:], labels[-held:]) >= before - WITHIN:
            chosen = model, ratio
            break
    if chosen is None:
        chosen = base, 0.0
    path = folder / "torch-pruning.onnx"
    _export(chosen[0], images[:2], path)
    return path, f"torch-pruning {tp.__version__}, {chosen[1]:.0%} of the channels, ONNX Runtime"


def _fine_tune(
    model: nn.Module, images: Tensor, labels: Tensor, seconds: float, *, rate: float
) -> None:
    """Adam and a cosine over the time, on the labels, as the stock guides have it."""
    torch.manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    began = time.monotonic()
    model.train()
    for rows in _batches(len(images)):
        done = (time.monotonic() - began) / seconds
        if done >= 1:
            return
        for group in optimizer.param_groups:
            group["lr"] = rate * 0.5 * (1 + np.cos(np.pi * done))
        loss = functional.cross_entropy(model(images[rows]), labels[rows])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()


def _batches(count: int) -> Iterator[Tensor]:
    while True:
        yield from torch.randperm(count).split(BATCH)


def _files(source: Path, work: Path) -> tuple[Path, Path]:
    """The training and the test images as .npz, written once."""
    paths = work / "train.npz", work / "test.npz"
    for path, split in zip(paths, ("train", "t10k"), strict=True):
        if not path.exists():
            pixels, labels = fashion.load_split(source, split)  # type: ignore[arg-type]
            np.savez(path, image=fashion.scale(pixels), target=labels)
    return paths


def _arrays(path: Path) -> tuple[Tensor, Tensor]:
    with np.load(path) as file:
        return torch.from_numpy(file["image"]), torch.from_numpy(file["target"])


def _export(model: nn.Module, example: Tensor, path: Path, *, dynamo: bool = True) -> None:
    names: dict[str, Any] = {"input_names": ["image"], "output_names": ["logits"]}
    if dynamo:
        free = ({0: torch.export.Dim("batch")},)
        torch.onnx.export(model, (example,), path, dynamic_shapes=free, dynamo=True, **names)
    else:
        axes = {"image": {0: "batch"}, "logits": {0: "batch"}}
        torch.onnx.export(model, (example,), path, dynamic_axes=axes, dynamo=False, **names)


def _model_bytes(bundle: Path) -> int:
    return sum(file.stat().st_size for file in (bundle / "model").rglob("*") if file.is_file())


if __name__ == "__main__":
    sys.exit(main())

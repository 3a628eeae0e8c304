"""Fashion-MNIST: each training technique alone, all together, and the stock pipelines.

    python benchmarks/training/run.py --data /usr/share/datasets/fashion-mnist [--only PIECE ...]

Pieces: ``prune``, ``distil``, ``qat``, ``int8`` (post-training alone), ``joint`` (everything),
``nncf-qat``, ``torch-pruning`` and ``inc`` (the stock pipelines, with the same time to train),
``by-hand-narrow`` and ``by-hand-pruned`` (the recipes of handmade.py, with the whole budget to
train), ``trouble`` (the network of trouble.py). Each runs alone, for ``--budget``, and is merged
into results.json and README.md beside this file. Stock pipelines are fine-tuned on the same
examples as strop's, with the demo's network as their start, and shrink until they would lose more
than the tolerance.

``--measure-only`` searches and trains nothing: what the pieces have left below ``--work`` is timed
anew, all of it in one run, side by side, and what results.json says besides stays. It is what to
do at the end, on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import beside
import handmade
import numpy as np
import onnx
import report
import stock
import torch
import trouble
from onnx.numpy_helper import to_array
from torch import Tensor

from strop.amounts import parse_seconds
from strop.demo import fashion, resnet
from strop.records import SessionSpec

POST = ("cleanup", "int8-static", "int8-nncf")
SEARCHES = {
    "prune": ("prune", "cleanup"),
    "distil": ("distil", "cleanup"),
    "qat": ("qat", "cleanup"),
    "int8": POST,
    "joint": (),
}
STOCK = ("nncf-qat", "torch-pruning", "inc")
PIECES = (*SEARCHES, *STOCK, *handmade.RECIPES, "trouble")
MODEL = f"{Path(resnet.__file__)}:build"
WITHIN = 0.01
TRAIN_SHARE = 0.55  # of the budget, as strop has it
BATCHES = (1, 64)


def main() -> int:
    """Run the pieces that were asked for, one after the other; then time them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="Fashion-MNIST's four .gz files")
    parser.add_argument("--work", type=Path, default=Path("training-benchmark"))
    parser.add_argument("--only", nargs="+", choices=PIECES)
    parser.add_argument("--budget", default="30m", help="of each piece")
    parser.add_argument("--batch", type=int, default=64, help="batch size to search for")
    parser.add_argument("--venvs", type=Path, help="environments of stock tools (WORK/venvs)")
    parser.add_argument(
        "--measure-only", action="store_true", help="time what an earlier run has left below WORK"
    )
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    files = _files(options.data, options.work)
    asked = options.only or PIECES
    if options.measure_only:
        left = [piece for piece in asked if (options.work / piece).exists()]
        for piece in set(asked) - set(left):
            print(f"{piece}: left out, {options.work / piece} is missing", flush=True)
        measure(left, *files, options.work)
        return 0
    for piece in asked:
        print(f"== {piece}, {options.budget}", flush=True)
        try:
            found = make(piece, *files, options)
        except stock.Skipped as reason:
            print(f"{piece}: skipped, {reason}", flush=True)
            continue
        report.merge(piece, {**found, "budget": options.budget})
        measure([piece], *files, options.work)
    return 0


def make(piece: str, train: Path, test: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Search or train one piece, below its own folder; what came of it, not yet timed."""
    folder = options.work / piece
    if piece in SEARCHES or piece == "trouble":
        if piece == "trouble":
            trouble.ensure(train)
        return report.optimize(
            _factory(piece),
            data=test,
            train=train,
            output=folder,
            budget=options.budget,
            within=f"{WITHIN:.0%}",
            batch=options.batch,
            techniques=SEARCHES.get(piece, ()),
        )
    folder.mkdir(parents=True, exist_ok=True)
    images, labels = _arrays(train)
    if piece in handmade.RECIPES:  # no search takes a part of the time
        seconds = parse_seconds(options.budget)
        return handmade.make(piece, images, labels, folder, seconds, within=WITHIN)
    seconds = TRAIN_SHARE * parse_seconds(options.budget)
    if piece == "inc":
        venvs = options.venvs or options.work / "venvs"
        path, text = stock.inc(images, _original(piece, images, options.work), folder, venvs)
    elif piece == "nncf-qat":
        path, text = stock.nncf_qat(images, labels, folder, seconds)
    else:
        path, text = stock.torch_pruning(images, labels, folder, seconds, within=WITHIN)
    return {"delivered": text, "file": path.name}


def measure(pieces: Sequence[str], train: Path, test: Path, work: Path) -> None:
    """Quality on all test images, times beside eager PyTorch and ORT FP32, and size; merged.

    Pieces of one network are timed in one run, in processes of their own, side by side.
    """
    images, labels = _arrays(test)
    finished = [piece for piece in pieces if _finished(piece, work / piece)]
    for piece in set(pieces) - set(finished):
        print(f"{piece}: nothing to time, it delivered no bundle", flush=True)
    for group in ([p for p in finished if p != "trouble"], [p for p in finished if p == "trouble"]):
        if not group:
            continue
        whole = _original(group[0], images, work)
        original = beside.of_onnx(whole)
        mine = {piece: _delivered(piece, work / piece) for piece in group}
        eager = beside.of_module(_factory(group[0]), original.signature, work / group[0])
        specs = {"ort": original, "eager": eager, **mine}
        arrays, targets = {"image": images.numpy()}, labels.numpy()
        quality = {
            name: float((beside.outputs(spec, arrays).argmax(1) == targets).mean())
            for name, spec in specs.items()
            if name != "eager"
        }
        times = {}
        for batch in BATCHES:
            given = {"image": arrays["image"][:batch]}
            floors = {
                f"floor of {piece}": beside.floor(spec, work / piece / "floor")
                for piece, spec in mine.items()
                if batch == 1
            }
            times[batch] = beside.seconds(specs | floors, given)
        for piece in mine:
            ratios = {
                f"{other} {batch}": times[batch][other] / times[batch][piece]
                for other in ("eager", "ort")
                for batch in BATCHES
            }
            calls = {
                f"{key} {batch}": times[batch][name]
                for key, name in (("mine", piece), ("eager", "eager"), ("ort", "ort"))
                for batch in BATCHES
            }
            calls["floor 1"] = times[1][f"floor of {piece}"]
            found = {
                "quality": quality[piece],
                "original_quality": quality["ort"],
                "ratios": ratios,
                "call_seconds": calls,
                "smaller": _sizes([whole]) / _sizes(_parts(piece, work / piece)),
                "weights": _weights([whole]) / _weights(_parts(piece, work / piece)),
                "timed_with": sorted(mine),
            }
            report.remeasured(piece, found, work / piece)
            print(
                f"{piece}: {found['quality']:.2%} of {found['original_quality']:.2%}, "
                + ", ".join(f"{value:.1f}× {name}" for name, value in ratios.items()),
                flush=True,
            )


def _finished(piece: str, folder: Path) -> bool:
    """Whether there is something to time: a search may have delivered the original."""
    if piece in handmade.RECIPES:
        return handmade.is_made(folder)
    return (folder / (f"{piece}.onnx" if piece in STOCK else "bundle")).exists()


def _delivered(piece: str, folder: Path) -> SessionSpec:
    if piece in handmade.RECIPES:
        return handmade.delivered(folder)
    if piece not in STOCK:
        return beside.of_bundle(folder / "bundle")
    if piece == "nncf-qat":  # made for OpenVINO, where it is fastest
        return beside.floats(folder / f"{piece}.onnx", folder / "openvino")["OpenVINO FP32"]
    return beside.of_onnx(folder / f"{piece}.onnx")


def _factory(piece: str) -> str:
    return f"{Path(trouble.__file__)}:build" if piece == "trouble" else MODEL


def _original(piece: str, images: Tensor, work: Path) -> Path:
    """The network that a piece starts from, as an ONNX file, made once."""
    build = trouble.build if piece == "trouble" else resnet.build
    path = work / f"{'Trouble' if piece == 'trouble' else 'ResNet'}.onnx"
    if not path.exists():
        stock.export(build(), images[:2], path)
    return path


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


def _parts(piece: str, folder: Path) -> list[Path]:
    if piece in handmade.RECIPES:
        return list(handmade.files(folder))
    if piece in STOCK:
        return list(folder.glob(f"{piece}.onnx*"))
    return [file for file in (folder / "bundle" / "model").rglob("*") if file.is_file()]


def _sizes(files: Iterable[Path]) -> int:
    """Bytes of a graph and of the weights that may lie beside it."""
    return sum(file.stat().st_size for file in files)


def _weights(files: Iterable[Path]) -> int:
    """Bytes of the weights alone: a small network's graph can weigh more than they do."""
    total = 0
    for file in files:
        if file.suffix == ".onnx":
            total += sum(it.nbytes for it in map(to_array, onnx.load(file).graph.initializer))
        elif file.suffix != ".xml":  # OpenVINO keeps graph and weights apart
            total += file.stat().st_size
    return total


if __name__ == "__main__":
    sys.exit(main())

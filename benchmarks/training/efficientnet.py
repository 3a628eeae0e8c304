"""EfficientNet-Lite0: INT8 recovered by label-free distillation on crops of photographs.

    python examples/zoo/fetch.py efficientnet-lite0 --output ZOO --cache CACHE
    python benchmarks/training/efficientnet.py --zoo ZOO --cache CACHE [--budget 30m]

The photographs are dealt out in two: crops of the ones are trained on, the claim is about crops of
the others. There are no labels; the metric is top-1 agreement with the original. As many crops are
drawn as prove 2 points four times in five if 1.3% of the decisions change; 1,000 more, which strop
is never given, are for the table: the delivered bundle, the float engines, and what stock tools
make of the model in INT8 without training. ``--measure-only`` makes that table anew. ``--by-hand
20m`` trains for so long what `recovery` describes, instead of a search, and adds it to the table.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import Any

import beside
import numpy as np
import recovery
import report

from strop.proof import ledger_alpha
from strop.proof.power import examples_needed

EXAMPLES = Path(__file__).parents[2] / "examples" / "zoo"
sys.path.append(str(EXAMPLES))

TOLERANCE, CHANGED = 0.02, 0.013
PROVEN_SHARE = 0.7  # of --data that strop proves with
TRAINED, FRESH = 3_000, 1_000
MORE = ("cell.png", "hubble_deep_field.jpg", "ihc.png", "moon.png", "page.png", "retina.jpg")
"""Photographs beside those of examples/zoo: to train on only."""
TECHNIQUES = ("cleanup", "int8-static", "int8-nncf", "qat")
BY_HAND = (
    "By hand: `int8-static` and `qat` with a tenth of the layers in float, calibrated and trained "
    "on crops of the training photographs alone, without labels, on OpenVINO with FP32 beside it. "
    "Nothing of that is proven."
)
_CALIBRATION = 256
_JUDGED = 900  # of --data, to stop by what is trained by hand


def main() -> None:
    """Search, unless only to measure; then hold what was delivered against the rest."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--zoo", type=Path, required=True, help="what fetch.py has written")
    parser.add_argument("--cache", type=Path, required=True, help="fetch.py's downloads")
    parser.add_argument("--work", type=Path, default=Path("training-benchmark"))
    parser.add_argument("--budget", default="30m")
    parser.add_argument("--rows", type=int, help="crops for --data instead of as many as prove it")
    parser.add_argument("--measure-only", action="store_true")
    parser.add_argument("--by-hand", type=float, metavar="SECONDS", help="train without a search")
    options = parser.parse_args()
    zoo = options.zoo / "efficientnet-lite0"
    folder = options.work / "efficientnet"
    folder.mkdir(parents=True, exist_ok=True)
    rows = options.rows or _rows()
    files = crops(options.cache, folder, {"train": TRAINED, "data": rows, "fresh": FRESH})
    if options.by_hand:
        judge = _scaled(_pixels(files["data"])[:_JUDGED])
        train = _scaled(_pixels(files["train"]))
        by_hand = folder / "by-hand"
        recovery.make(zoo / "model.onnx", train, judge, by_hand, options.by_hand)
    elif not options.measure_only:
        found = report.optimize(
            str(zoo / "model.onnx"),
            data=files["data"],
            train=files["train"],
            output=folder / "search",
            budget=options.budget,
            within=f"{TOLERANCE:.0%}",
            batch=1,
            techniques=TECHNIQUES,
            more=("--preprocess", f"{zoo / 'preprocess.py'}:fn"),
        )
        report.merge("efficientnet", {**found, "budget": options.budget})
    figures = measured(zoo / "model.onnx", files, folder)
    report.remeasured("efficientnet", figures, folder / "search")
    print("\n".join(report.unseen({"claim_text": "", "delivered": "", **figures})))


def crops(cache: Path, folder: Path, wanted: dict[str, int]) -> dict[str, Path]:
    """Files of so many crops each: uint8[n, 3, 224, 224] as ``image``; those that are there stay.

    ``train`` has crops of other photographs than all the rest.
    """
    import efficientnet_lite0 as zoo
    from packages import wheel

    paths = {name: folder / f"{name}-{count}.npz" for name, count in wanted.items()}
    if all(path.exists() for path in paths.values()):
        return paths
    archives = wheel("scikit-image==0.26.0", cache), wheel("foolbox==3.3.4", cache)
    members = [(archives[0], f"skimage/data/{name}") for name in zoo.PHOTOGRAPHS]
    members += [(archives[1], name) for name in archives[1].namelist() if "/imagenet_" in name]
    photographs = [zoo._photograph(archive, name) for archive, name in members]
    trained = [one for place, one in enumerate(photographs) if place % 3]
    trained += [zoo._photograph(archives[0], f"skimage/data/{name}") for name in MORE]
    for number, (name, count) in enumerate(wanted.items()):
        if paths[name].exists():
            continue
        rng = np.random.default_rng([0, number])
        source = trained if name == "train" else photographs[::3]
        images = np.empty((count, 3, zoo.SIZE, zoo.SIZE), np.uint8)
        for row in range(count):
            images[row] = zoo._crop(source[rng.integers(len(source))], rng)
        np.savez(paths[name], image=images)
    return paths


def measured(model: Path, files: dict[str, Path], folder: Path) -> dict[str, Any]:
    """Agreement and speed at batch 1 of the delivered and of all it is held against."""
    fresh = _pixels(files["fresh"])
    rows = _pixels(files["train"])[:_CALIBRATION]
    given = {"image": _scaled(fresh[:1])}
    bundle = folder / "search" / "bundle"
    found = {"delivered": beside.of_bundle(bundle)} if bundle.exists() else {}
    found |= recovery.made(folder / "by-hand")
    if not found:
        raise SystemExit("there is no bundle and nothing made by hand: nothing to time")
    floats = beside.floats(model, folder / "floats")
    stock = beside.quantised(
        model, [{"image": _scaled(row[None])} for row in rows], folder / "stock", transformer=False
    )
    specs = {**found, **floats, **stock}
    seconds = beside.seconds(specs, given)
    decided = {name: _decisions(spec, fresh) for name, spec in specs.items()}
    wanted = decided[beside.FLOAT[0]]
    table: dict[str, Any] = {}
    for name in specs:
        same = decided[name] == wanted
        table[name] = {
            "quality": float(same.mean()),
            "interval": _wilson(int(same.sum()), len(same)),
            "seconds": seconds[name],
        }
    within = [name for name in floats if table[name]["quality"] >= 1 - TOLERANCE]
    rival = min(within, key=seconds.__getitem__)
    for name in found:
        table[name]["times"] = beside.times_faster(specs[rival], specs[name], given)
    return {
        "metric": "agreement",
        "digits": 3,
        "rows": len(fresh),
        "unseen": "crops of photographs that were not trained on",
        "table": table,
        "rival": rival,
        "times_of": "the fastest float engine's within the tolerance over the row's",
        "notes": [
            f"The fastest float engine within {100 * TOLERANCE:g} points is {rival}. The claim and "
            "the table are about random crops of ten photographs, and about no others.",
            *([BY_HAND] if recovery.made(folder / "by-hand") else []),
        ],
    }


def _rows() -> int:
    """Of --data: what proves the tolerance in the ledger's first run, and what chooses."""
    needed = examples_needed("agreement", CHANGED, 0.0, TOLERANCE, ledger_alpha(0.05, 1))
    return math.ceil(needed / PROVEN_SHARE / 100) * 100


def _pixels(path: Path) -> np.ndarray:
    with np.load(path) as file:
        return np.array(file["image"])


def _scaled(pixels: np.ndarray) -> np.ndarray:
    return (pixels.astype(np.float32) - 127) / 128


def _decisions(spec: Any, pixels: np.ndarray) -> np.ndarray:
    """The class of each crop, a hundred at a time: scaled, all of them would fill the memory."""
    parts = np.array_split(pixels, max(len(pixels) // 100, 1))
    return np.concatenate(
        [beside.outputs(spec, {"image": _scaled(part)}, batch=10).argmax(1) for part in parts]
    )


def _wilson(hits: int, n: int) -> tuple[float, float]:
    """Wilson's 95% interval of a share."""
    z, share = 1.96, hits / n
    middle = share + z**2 / (2 * n)
    spread = z * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return (middle - spread) / (1 + z**2 / n), (middle + spread) / (1 + z**2 / n)


if __name__ == "__main__":
    main()

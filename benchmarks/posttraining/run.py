"""How far compression goes without training and without labels, on two models.

    python examples/zoo/fetch.py efficientnet-lite0 minilm --output ZOO --cache CACHE
    python benchmarks/posttraining/run.py --zoo ZOO --cache CACHE [--only NAME ...]

``efficientnet-lite0``: the fastest INT8 whose top class agrees with the original's, on crops of
photographs; and the frontier, agreement against speed, of all that the search timed.
``minilm``: the smallest file whose embeddings stay near the original's, on mails. Both are then
held against the original on examples that the search was never given: those of
benchmarks/training, whose files are used here. ``--measure-only`` makes the tables anew from the
searches that are there. Writes results.json and README.md beside this file.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import page

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent / "training"))

import beside  # noqa: E402
import efficientnet  # noqa: E402
import minilm  # noqa: E402
import report  # noqa: E402

from strop.records import Result, Trial  # noqa: E402

WITHIN = {"efficientnet-lite0": "2.5%", "minilm": "2%"}
_ENDED = (0, 3)  # something better, or the original again


def main() -> None:
    options = _options()
    for name in options.only:
        folder = options.work / name
        folder.mkdir(parents=True, exist_ok=True)
        found = {"efficientnet-lite0": _photographs, "minilm": _mails}[name](options, folder)
        path = HERE / "results.json"
        results = json.loads(path.read_text()) if path.exists() else {}
        measured = {"date": date.today().isoformat(), "machine": report.machine()}
        results[name] = {**found, **measured, "budget": options.budget, "within": WITHIN[name]}
        path.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
        (HERE / "README.md").write_text(page.readme(results))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--zoo", type=Path, required=True, help="what fetch.py has written")
    parser.add_argument("--cache", type=Path, required=True, help="fetch.py's downloads")
    parser.add_argument("--work", type=Path, default=Path("posttraining-benchmark"))
    parser.add_argument("--crops", type=Path, help="crops and mails that are there already")
    parser.add_argument("--only", nargs="+", choices=WITHIN, default=list(WITHIN))
    parser.add_argument("--budget", default="15m")
    parser.add_argument("--measure-only", action="store_true")
    return parser.parse_args()


def _photographs(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    zoo = options.zoo / "efficientnet-lite0"
    counts = {"train": efficientnet.TRAINED, "data": 4_000, "fresh": efficientnet.FRESH}
    files = efficientnet.crops(options.cache, _given(options, folder, "efficientnet"), counts)
    search = folder / "search"
    if not options.measure_only:
        more = ["--preprocess", f"{zoo / 'preprocess.py'}:fn", "--technique", "int8-static"]
        _search(options, zoo / "model.onnx", files["data"], search, "efficientnet-lite0", more)
    result = Result.read(search / "result.json")
    floats = beside.floats(zoo / "model.onnx", folder / "floats")
    specs = dict(floats)
    if (search / "bundle").exists():
        specs["delivered"] = beside.of_bundle(search / "bundle")
    fresh = efficientnet._pixels(files["fresh"])
    given = {"image": efficientnet._scaled(fresh[:1])}
    seconds = beside.seconds(specs, given)
    wanted = efficientnet._decisions(specs[beside.FLOAT[0]], fresh)
    table: dict[str, Any] = {}
    for name, spec in specs.items():
        same = efficientnet._decisions(spec, fresh) == wanted
        table[name] = {
            "quality": float(same.mean()),
            "interval": efficientnet._wilson(int(same.sum()), len(same)),
            "seconds": seconds[name],
        }
    # Equivalent engines change no decision at all.
    equal = [name for name in floats if table[name]["quality"] == 1.0]
    rival = min(equal, key=seconds.__getitem__)
    if "delivered" in specs:
        table[rival]["times"] = beside.times_faster(specs[rival], specs["delivered"], given)
    return {
        **_delivered(result),
        "metric": "agreement",
        "fresh": len(fresh),
        "searched": result.data.roles["search"],
        "rival": rival,
        "table": table,
        "frontier": frontier(result),
    }


def _mails(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    zoo = options.zoo / "minilm"
    files = minilm.mails(zoo, options.cache, _given(options, folder, "minilm"))
    search = folder / "search"
    if not options.measure_only:
        more = ["--metric", "cosine", "--goal", "size", "--technique", "weight-only"]
        _search(options, zoo / "model.onnx", files["data"], search, "minilm", more)
    result = Result.read(search / "result.json")
    fresh = minilm._read(files["fresh"])
    full = int(np.flatnonzero(fresh["mask"].all(1))[0])
    given = {name: array[full : full + 1] for name, array in fresh.items()}
    original = beside.of_onnx(zoo / "model.onnx")
    mine = beside.of_bundle(search / "bundle")
    cosine = minilm._cosine(beside.outputs(mine, fresh), beside.outputs(original, fresh))
    sizes = [_bytes(zoo / "model.onnx"), _bytes(search / "bundle" / "model")]
    return {
        **_delivered(result),
        "metric": "cosine",
        "fresh": len(cosine),
        "quality": float(cosine.mean()),
        "least": float(cosine.min()),
        "interval": minilm._bootstrap(len(cosine), lambda rows: float(cosine[rows].mean())),
        "bytes": sizes,
        "smaller": sizes[0] / sizes[1],
        "times": beside.times_faster(original, mine, given),
    }


def frontier(result: Result) -> list[dict[str, Any]]:
    """What was timed and is not both slower and worse than another, the fastest first.

    Speed is against the fastest trial that is equivalent.
    """
    timed = [trial for trial in result.trials if trial.evidence.speedups and _kept(trial) <= 1]
    equal = max(_speed(trial) for trial in timed if trial.equivalent)
    rows, best = [], -1.0
    for trial in sorted(timed, key=_speed, reverse=True):
        if _kept(trial) > best:
            best = _kept(trial)
            row = {"recipe": str(trial.recipe), "agreement": best, "times": _speed(trial) / equal}
            rows.append(row | {"equivalent": trial.equivalent})
    return rows


def _kept(trial: Trial) -> float:
    found = trial.evidence.search_quality
    assert found is not None
    return found.candidate


def _speed(trial: Trial) -> float:
    return trial.evidence.speedups[0].ratio.estimate


def _given(options: argparse.Namespace, folder: Path, name: str) -> Path:
    return folder if options.crops is None else Path(options.crops) / name


def _search(
    options: argparse.Namespace, model: Path, data: Path, output: Path, name: str, more: list[str]
) -> None:
    command = [sys.executable, "-m", "strop", "optimize", str(model), "--trust"]
    command += ["--data", str(data), "--within", WITHIN[name], "--budget", options.budget]
    command += ["--batch", "1", "--output", str(output), *more]
    for engine in ("onnxruntime", "openvino"):
        command += ["--engine", engine]
    done = subprocess.run(command, check=False)
    if done.returncode not in _ENDED:
        raise SystemExit(f"strop optimize ended with {done.returncode}")


def _delivered(result: Result) -> Mapping[str, Any]:
    claim = result.claim
    return {
        "status": result.status,
        "delivered": result.delivered.text,
        "claim": "" if claim is None else str(claim),
        "trials": len(result.trials),
        "near_miss": None if result.near_miss is None else result.near_miss.text,
    }


def _bytes(path: Path) -> int:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)


if __name__ == "__main__":
    main()

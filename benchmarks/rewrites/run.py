"""What each rewrite of the graph brings: the graph with all of them against the graph without it.

    python examples/zoo/fetch.py --output ZOO
    python benchmarks/rewrites/run.py --zoo ZOO [--only NAME ...] [--engines NAME ...]

For each model of benchmarks/zoo and each engine, in FP32: the clean-up as a whole against the
original, each of its passes left out against the clean-up, shapes fixed against free, and padding
trimmed against not. Pairs of fresh processes, interleaved. Writes results.json and README.md beside
this file after every model; `--render` only writes README.md again. Exits with code 1 where a
variant's outputs are not the original's.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import page
import variants

from strop import engines
from strop.errors import StropError
from strop.measure import describe, granted_cpus, pair, speedup
from strop.models.model import Model
from strop.records import Placement, SessionSpec

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent / "zoo"))

ENGINES = {"onnxruntime": "onnxruntime", "openvino": "openvino"}
"""By name, the distribution that it comes with."""
WRONG = 1e-3
"""Relative error of a variant's outputs above which it is not the same function."""


def main() -> int:
    options = _options()
    if not options.render:
        _run(options)
    results = json.loads(options.results.read_text())
    options.results.with_name("README.md").write_text(page.readme(results))
    wrong = [
        f"{model['name']}: {row['change']}"
        for model in results["models"]
        for row in model["rows"]
        if not row["relative_error"] <= WRONG
    ]
    print("not the same function:", ", ".join(wrong) or "none")
    return 1 if wrong else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--zoo", type=Path, default=Path("zoo"), help="what fetch.py has written")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="some models only")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--launches", type=int, default=6)
    parser.add_argument("--quads", type=int, default=4)
    parser.add_argument("--results", type=Path, default=HERE / "results.json")
    parser.add_argument("--render", action="store_true", help="README.md from results.json alone")
    return parser.parse_args()


def _run(options: argparse.Namespace) -> None:
    from entries import ENTRIES
    from timing import inputs_of

    packages = ("strop", "numpy", "onnx", *(ENGINES[name] for name in options.engines))
    results: dict[str, Any] = {
        "schema": 1,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": describe().to_dict(),
        "versions": {name: version(name) for name in dict.fromkeys(packages)},
        "settings": {
            "batch": options.batch,
            "threads": len(granted_cpus()),
            "launches": options.launches,
            "quads": options.quads,
            "engines": options.engines,
        },
        "models": [],
    }
    for entry in ENTRIES:
        zoo = (options.zoo / entry.name).resolve()
        if options.only and entry.name not in options.only:
            continue
        if not (zoo / "model.onnx").exists():
            print(f"{entry.name}: not fetched, left out", flush=True)
            continue
        started, load = time.monotonic(), os.getloadavg()[0]
        inputs = inputs_of(entry, zoo, options.batch)
        with tempfile.TemporaryDirectory() as folder:
            family = variants.make(zoo / "model.onnx", Path(folder), inputs)
            rows = [_timed(entry.name, it, Path(folder), inputs, options) for it in family.changes]
        results["models"].append(
            {
                "name": entry.name,
                "operators": family.operators,
                "without_effect": list(family.without_effect),
                "rows": rows,
                "load_before": load,
                "seconds": round(time.monotonic() - started),
            }
        )
        options.results.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")


def _timed(
    name: str,
    change: variants.Change,
    folder: Path,
    inputs: dict[str, Any],
    options: argparse.Namespace,
) -> dict[str, Any]:
    """How many times faster the graph with the change is, by engine."""
    gains: dict[str, Any] = {}
    for engine in options.engines:
        print(f"{name}: {change.name} on {engine}", flush=True)
        try:
            before, after = (_spec(engine, *side, folder) for side in change.sides(engine))
            found = speedup(
                pair(
                    before,
                    after,
                    inputs,
                    launches=options.launches,
                    quads=options.quads,
                    warmup_seconds=1.0,
                ),
                "before",
            )
        except StropError as error:
            gains[engine] = {"error": str(error).splitlines()[0][:240]}
            print(f"  {gains[engine]['error']}", flush=True)
            continue
        ratio = found.ratio
        gains[engine] = {"ratio": ratio.estimate, "low": ratio.low, "high": ratio.high}
    return {
        "change": change.name,
        "operators": list(change.operators),
        "relative_error": change.relative_error,
        "gains": gains,
    }


def _spec(engine: str, model: Model, options: dict[str, Any], folder: Path) -> SessionSpec:
    """The model built for an engine; built once for all pairs that it is part of."""
    workdir = folder / "built" / f"{engine}-{model.path.name}"
    built = workdir.with_suffix(".txt")
    if not built.exists():
        shutil.rmtree(workdir, ignore_errors=True)
        workdir.mkdir(parents=True)
        built.write_text(str(engines.get(engine).build(model, options, workdir)))
    return SessionSpec(
        engine=engine,
        artifact=built.read_text(),
        signature=model.signature,
        options=options,
        placement=Placement(threads=len(granted_cpus())),
    )


if __name__ == "__main__":
    sys.exit(main())

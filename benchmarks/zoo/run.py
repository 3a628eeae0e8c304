"""strop's delivered model beside PyTorch eager and what the stock tools make of the same model.

    python examples/zoo/fetch.py --output ZOO
    python benchmarks/zoo/run.py --zoo ZOO --output OUT [--only NAME ...] [--budget 5m]

A model goes through five steps: `stock` builds what the stock tools build, `search` runs `strop
optimize`, `quality` scores all of them on rows that strop was never given, `timing` times all of
them in one run, `footprint` takes their memory and size. Steps may run apart (`--steps stock
search`); each leaves a file below OUT/NAME, and `stock` is not repeated where it has. Writes
results.json and README.md beside this file, and the figures of docs/gallery.md; `--render` only
writes the two pages again. Exits with code 1 where a claim is contradicted or a delivered model is
slower than the best stock result.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import candidates
import footprint
import gallery
import judging
import table
import timing
from entries import ENTRIES, HERE, Entry

from strop.measure import describe
from strop.records import Result

STEPS = ("stock", "search", "quality", "timing", "footprint")


def main() -> int:
    options = _options()
    if options.render:
        results = json.loads((HERE / "results.json").read_text())
        (HERE / "README.md").write_text(table.readme(results))
        gallery.write(results)
        return 0
    asked = dict(text.split("=", 1) for text in options.tolerance)
    for entry in ENTRIES:
        if options.only and entry.name not in options.only:
            continue
        zoo = (options.zoo / entry.name).resolve()
        if not (zoo / "model.onnx").exists():
            print(f"{entry.name}: not fetched, left out", flush=True)
            continue
        chosen = replace(entry, within=asked.get(entry.name, entry.within))
        _run(chosen, zoo, (options.output / entry.name).resolve(), options)
    results = _collect(options)
    results_path, readme_path = options.results, options.results.with_name("README.md")
    results_path.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    readme_path.write_text(table.readme(results))
    if results_path.resolve().parent == HERE:
        gallery.write(results)
    failed = [entry["name"] for entry in results["entries"] if table.fails(entry)]
    print("claim contradicted or slower:", ", ".join(failed) or "none")
    return 1 if failed else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--zoo", type=Path, default=Path("zoo"), help="what fetch.py has written")
    parser.add_argument("--output", type=Path, default=Path("zoo-benchmark"))
    parser.add_argument("--only", nargs="+", metavar="NAME", help="some models only")
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=STEPS)
    parser.add_argument("--budget", default="5m", help="of each search (default: %(default)s)")
    parser.add_argument(
        "--tolerance", nargs="+", default=[], metavar="NAME=1%", help="instead of the table's"
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--launches", type=int, default=10)
    parser.add_argument("--venvs", type=Path, help="environments of stock tools (OUTPUT/venvs)")
    parser.add_argument("--results", type=Path, default=HERE / "results.json")
    parser.add_argument("--render", action="store_true", help="README.md from results.json alone")
    return parser.parse_args()


def _run(entry: Entry, zoo: Path, output: Path, options: argparse.Namespace) -> None:
    if "stock" in options.steps:
        venvs = (options.venvs or options.output / "venvs").resolve()
        candidates.build_stock(entry, zoo, output, venvs)
    if "search" in options.steps:
        _search(entry, zoo, output, options.budget)
    if not {"quality", "timing", "footprint"} & set(options.steps):
        return
    result = Result.read(output / "strop" / "result.json")
    everyone = [
        candidates.delivered(output),
        candidates.eager(entry, zoo, output),
        *candidates.stock(entry, zoo, output),
    ]
    if "quality" in options.steps:
        found = judging.judge(entry, zoo, output, everyone, result.tolerance, result.claim)
        _write(output / "quality.json", found)
    if "timing" in options.steps:
        quality = json.loads((output / "quality.json").read_text())
        started, load = time.monotonic(), os.getloadavg()[0]
        if load > 0.5:
            print(
                f"{entry.name}: load average {load:.1f}: figures need an idle machine", flush=True
            )
        found = timing.time_all(
            entry, zoo, everyone, quality, rounds=options.rounds, launches=options.launches
        )
        found |= {"seconds": round(time.monotonic() - started), "load_before": load}
        _write(output / "timing.json", found)
    if "footprint" in options.steps:
        _write(output / "footprint.json", footprint.footprints(entry, zoo, everyone))
    document: dict[str, Any] = {
        "name": entry.name,
        "reason": entry.reason,
        "within": entry.within,
        "batches": entry.batches,
        "rows": [candidates.row_of(it) for it in everyone],
        "search": _summary(result),
    }
    _write(output / "entry.json", document)


def _search(entry: Entry, zoo: Path, output: Path, budget: str) -> None:
    """`strop optimize` as a user would call it, with a cache and a ledger of its own."""
    environment = os.environ | {
        "STROP_CACHE": str(output / "cache"),
        "STROP_LEDGER": str(output / "ledger.jsonl"),
    }
    command = [str(Path(sys.executable).with_name("strop")), "optimize", str(zoo / "model.onnx")]
    command += ["--data", str(zoo / "data.npz"), "--within", entry.within, "--budget", budget]
    command += ["--output", str(output / "strop"), *entry.options(zoo)]
    print(f"{entry.name}: strop optimize", flush=True)
    done = subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=False)
    if done.returncode not in (0, 3):
        raise SystemExit(f"{entry.name}: strop optimize ended with {done.returncode}")


def _summary(result: Result) -> dict[str, Any]:
    """What the table shows of a search; the whole result stays in its folder."""
    claim = result.claim
    return {
        "status": result.status,
        "reason": result.reason,
        "claim": None if claim is None else claim.to_dict(),
        "claim_text": "" if claim is None else str(claim),
        "delivered": result.delivered.text,
        "tolerance": result.tolerance,
        "roles": result.data.roles,
        "trials": len(result.trials),
        "seconds": result.seconds,
        "budget_seconds": result.budget_seconds,
    }


def _collect(options: argparse.Namespace) -> dict[str, Any]:
    """Everything below the output folder that has gone through all steps, in the table's order."""
    entries = []
    for entry in ENTRIES:
        folder = options.output / entry.name
        files = [folder / f"{name}.json" for name in ("entry", "quality", "timing")]
        if all(file.exists() for file in files):
            document, quality, times = (json.loads(file.read_text()) for file in files)
            document |= {"quality": quality, "timing": times}
            if (folder / "footprint.json").exists():
                document["footprint"] = json.loads((folder / "footprint.json").read_text())
            entries.append(document)
    packages = ("strop", "numpy", "onnx", "onnxruntime", "openvino", "nncf", "torch")
    return {
        "schema": 1,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": describe().to_dict(),
        "versions": {name: version(name) for name in packages},
        "settings": {
            "rounds": options.rounds,
            "launches": options.launches,
            "margin": timing.MARGIN,
        },
        "entries": entries,
    }


def _write(path: Path, document: Any) -> None:
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    sys.exit(main())

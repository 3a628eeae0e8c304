"""How soon a strategy finds a recipe within 5% of the best, on recorded searches.

    python benchmarks/search/run.py record --zoo ZOO --output OUT [--only NAME ...] [--budget 30m]
    python benchmarks/search/run.py replay OUT/* [--ordinary ZOO_OUT/*/strop]

`record` tries every recipe of a model once, in canonical order, with an empty cache: a table of
what each recipe costs and gives. `replay` runs the strategies on these tables, which takes seconds
(`Strategy.propose` is pure), and writes results.json and README.md beside this file. `--ordinary`
names folders of ordinary searches, for strop's own share of their time.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import tables

from strop.measure import describe
from strop.records import Result

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent / "zoo"))

SEEDS = 20
NEAR = 0.95
STRATEGIES = {"evidence": 1, "random": SEEDS, "exhaustive": 1}


def main() -> int:
    options = _options()
    if options.command == "record":
        from entries import ENTRIES

        for entry in ENTRIES:
            if not options.only or entry.name in options.only:
                record(entry, options.zoo / entry.name, options.output, options.budget)
        return 0
    folders = [folder for folder in options.folders if (folder / "result.json").exists()]
    results = {
        "schema": 1,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "cpu": describe().cpu,
        "near": NEAR,
        "seeds": SEEDS,
        "models": [replay(folder) for folder in folders],
        "ordinary": [own_share(folder) for folder in options.ordinary],
    }
    (HERE / "results.json").write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    (HERE / "README.md").write_text(readme(results))
    return 0


def record(entry: Any, zoo: Path, output: Path, budget: str) -> None:
    """An exhaustive search that never loses patience."""
    from entries import in_folder

    from strop.search import Request, optimize, race

    zoo, folder = zoo.resolve(), (output / entry.name).resolve()
    os.environ |= {
        "STROP_CACHE": str(folder.with_name(f".{entry.name}-cache")),
        "STROP_LEDGER": str(folder.with_name(f".{entry.name}-ledger.jsonl")),
    }
    race._PATIENCE = sys.maxsize  # the table needs the recipes that a search would not try any more
    print(f"{entry.name}: recording every recipe", flush=True)
    files = {"metric": entry.metric, "preprocess": entry.preprocess}
    optimize(
        Request(
            model=str(zoo / "model.onnx"),
            data=str(zoo / "data.npz"),
            within=entry.within,
            output=folder,
            budget=budget,
            strategy="exhaustive",
            trust=True,
            **{name: value and in_folder(zoo, value) for name, value in files.items()},
        )
    )


def replay(folder: Path) -> dict[str, Any]:
    """Every strategy on one recorded table."""
    table = tables.read(folder)
    found: dict[str, Any] = {}
    for name, seeds in STRATEGIES.items():
        runs = [table.replay(name, seed, NEAR) for seed in range(seeds)]
        found[name] = {
            "seconds": [run.seconds for run in runs],
            "trials": [run.trials for run in runs],
        }
        print(f"{folder.name}: {name} {np.median(found[name]['seconds']):.0f} s", flush=True)
    best = table.best
    return {
        "name": folder.name,
        "recorded": len(table.trials),
        "candidates": table.candidates,
        "seconds": table.seconds,
        "best": str(best.recipe),
        "best_ratio": tables.value(best, table.tolerance),
        "own_share": own_share(folder)["share"],
        "strategies": found,
    }


def own_share(folder: Path) -> dict[str, Any]:
    """strop's own share of a search's wall time: what is not building, scoring or timing."""
    result = Result.read(folder / "result.json")
    seconds = result.seconds
    name = folder.parent.name if folder.name == "strop" else folder.name
    return {
        "name": name,
        "total": seconds["total"],
        "own": seconds["own"],
        "share": seconds["own"] / seconds["total"],
    }


def readme(results: dict[str, Any]) -> str:
    lines = [
        "# How soon a search finds what it is looking for",
        "",
        "Written by `python benchmarks/search/run.py replay`; the figures are in `results.json`.",
        "Every recipe of a model was tried once and written down, but for those that begin with a",
        "step that had nothing to do there; the strategies then ran on these tables. *Near* is a",
        f"recipe that holds on *search* and reaches {NEAR:.0%} of the best such recipe's speed.",
        f"Random order: median and range of {results['seeds']} seeds.",
        "",
        "```console",
        "$ python benchmarks/search/run.py record --zoo zoo --output tables",
        "$ python benchmarks/search/run.py replay tables/* --ordinary zoo-benchmark/*/strop",
        "```",
        "",
        "| model | recipes (recorded of all) | trying all | evidence | random | exhaustive |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for model in results["models"]:
        cells = [_cell(model["strategies"][name]) for name in STRATEGIES]
        lines.append(
            f"| {model['name']} | {model['recorded']} of {model['candidates']} "
            f"| {model['seconds']:.0f} s | {' | '.join(cells)} |"
        )
    lines += ["", "| model | best recipe of the table | × the anchor |", "| --- | --- | ---: |"]
    for model in results["models"]:
        lines.append(f"| {model['name']} | {model['best']} | {model['best_ratio']:.2f} |")
    lines += ["", "## strop's own share of the wall time", "", "| search | total | own | share |"]
    lines.append("| --- | ---: | ---: | ---: |")
    for row in results["ordinary"]:
        lines.append(
            f"| {row['name']} | {row['total']:.0f} s | {row['own']:.1f} s | {row['share']:.1%} |"
        )
    lines += [
        "",
        "## What this does not say",
        "",
        "- The evidence order's prior came from these very models (docs/search.md), so its figures",
        "  here are those of a strategy on its training set; no model outside has been recorded.",
        "- A recorded recipe was timed in one process, and the best of many noisy figures is",
        "  flattered; the 5% cover some of that.",
        "- What a technique wrote is built once and shared. Its cost goes to whichever recipe",
        "  comes first in the replay: the seconds above the engine's own median build.",
        f"- {results['cpu']}, {results['date']}.",
        "",
    ]
    return "\n".join(lines)


def _cell(runs: dict[str, list[float]]) -> str:
    seconds, trials = np.array(runs["seconds"]), np.array(runs["trials"])
    text = f"{np.median(seconds):.0f} s, {np.median(trials):.0f} trials"
    if len(seconds) > 1:
        text += f" ({seconds.min():.0f}–{seconds.max():.0f} s)"
    return text


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    recording = commands.add_parser("record", help="try every recipe of the zoo's models")
    recording.add_argument("--zoo", type=Path, required=True)
    recording.add_argument("--output", type=Path, required=True)
    recording.add_argument("--only", nargs="+", metavar="NAME")
    recording.add_argument("--budget", default="30m")
    replaying = commands.add_parser("replay", help="run the strategies on recorded tables")
    replaying.add_argument("folders", nargs="+", type=Path)
    replaying.add_argument("--ordinary", nargs="*", type=Path, default=[])
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

"""`strop serve` beside other servers, beside its engines, under overload and over time.

    pip install "strop[openvino,serve]"
    python benchmarks/serving/run.py --zoo ZOO --bundles ZOO-BENCHMARK [--steps rates …]

The load generator has one core and the server another; every server is a fresh process, and
rounds go over all of them in turn. ZOO is what examples/zoo/fetch.py wrote, ZOO-BENCHMARK what
benchmarks/zoo/run.py wrote; models that are not there are left out. Writes results.json and
README.md beside this file: what a step found replaces what it had found before. Exits with code 1
where an aim is missed. Some ten minutes on an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import step_bundles
import step_cycles
import step_identity
import step_overload
import step_policies
import step_rates
import subjects
import table
from pinned import Bench

from strop.measure import describe

HERE = Path(__file__).parent
STEPS = ("rates", "bundles", "overload", "policies", "identity", "cycles")


def main() -> int:
    options = _options()
    results = json.loads(options.results.read_text()) if options.results.exists() else {}
    if not options.render:
        machine = describe().to_dict()  # before this process gives up its other cores
        load, serve = options.cores or _two_cores()
        os.sched_setaffinity(0, {load})
        results |= {
            "schema": 1,
            "date": time.strftime("%Y-%m-%d", time.gmtime()),
            "machine": machine,
            "cores": {"generator": load, "server": serve},
            "settings": {"rounds": options.rounds, "seconds": options.seconds},
        }
        with tempfile.TemporaryDirectory(prefix="serving-") as folder:
            work = (options.work or Path(folder)).resolve()
            work.mkdir(parents=True, exist_ok=True)
            bench = Bench(load, serve, work, options.venvs, options.rounds, options.seconds)
            for step in options.steps:
                print(step, flush=True)
                began, busy = time.monotonic(), os.getloadavg()[0]
                if busy > 0.7:
                    print(f"  load average {busy:.1f}: figures need an idle machine", flush=True)
                found = _run(step, bench, options)
                results[step] = {
                    "seconds": round(time.monotonic() - began),
                    "load_before": busy,
                    "found": found,
                }
                options.results.write_text(json.dumps(results, indent=1) + "\n")
    options.results.with_name("README.md").write_text(table.readme(results))
    missed = table.missed(results)
    print("missed:", ", ".join(missed) or "none")
    return 1 if missed else 0


def _run(step: str, bench: Bench, options: argparse.Namespace) -> Any:
    if step == "rates":
        return step_rates.measure(bench)
    if step == "identity":
        return step_identity.measure(bench, options.requests)
    if step == "cycles":
        return step_cycles.measure(bench, options.cycles)
    found = []
    for name in options.models if step == "bundles" else options.overload:
        subject = subjects.find(name, options.zoo, options.bundles)
        if subject is None:
            print(f"  {name}: not there, left out", flush=True)
        elif step == "bundles":
            found.append(step_bundles.measure(subject, bench))
        elif step == "policies":
            found.append(step_policies.measure(subject, bench))
        else:
            found.append(step_overload.measure(subject, bench, options.overload_seconds))
    return found


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=STEPS)
    parser.add_argument("--zoo", type=Path, default=Path("zoo"), help="what fetch.py wrote")
    parser.add_argument("--bundles", type=Path, help="what benchmarks/zoo/run.py wrote")
    parser.add_argument(
        "--venvs", type=Path, default=Path("serving-venvs"), help="of other servers"
    )
    parser.add_argument("--work", type=Path, help="keep models and logs here")
    parser.add_argument("--cores", type=int, nargs=2, metavar=("GENERATOR", "SERVER"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="of one measurement")
    parser.add_argument(
        "--models",
        nargs="+",
        choices=subjects.CHOICES,
        default=["fashion-mnist", "efficientnet-lite0"],
        help="of the step bundles",
    )
    parser.add_argument(
        "--overload",
        nargs="+",
        choices=subjects.CHOICES,
        default=["minilm", "fashion-mnist"],
        help="models of the steps overload and policies",
    )
    parser.add_argument("--overload-seconds", type=float, default=15.0)
    parser.add_argument("--requests", type=int, default=1_000_000, help="of the step identity")
    parser.add_argument("--cycles", type=int, default=1000, help="of the step cycles")
    parser.add_argument("--results", type=Path, default=HERE / "results.json")
    parser.add_argument("--render", action="store_true", help="README.md from results.json alone")
    return parser.parse_args()


def _two_cores() -> tuple[int, int]:
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise SystemExit("one core for the generator and one for the server are needed")
    return cores[0], cores[1]


if __name__ == "__main__":
    sys.exit(main())

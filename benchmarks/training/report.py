"""What the scripts of this folder share: searches, timings, and one README from all results."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import strop
from strop.measure import describe
from strop.records import Result

HERE = Path(__file__).parent
_ROUNDS, _SECONDS_A_ROUND = 30, 0.1

Run = Callable[[Mapping[str, np.ndarray]], Any]


def machine() -> dict[str, Any]:
    """The machine as results name it."""
    found = describe()
    return {
        "cpu": found.cpu,
        "cores": found.cores,
        "memory": f"{found.memory_bytes / 2**30:.0f} GiB",
        "isa": list(found.isa),
        "python": found.python,
        "packages": found.packages,
    }


def optimize(
    model: str,
    *,
    data: Path,
    train: Path,
    output: Path,
    budget: str,
    within: str,
    batch: int,
    techniques: Sequence[str] = (),
    more: Sequence[str] = (),
) -> dict[str, Any]:
    """`strop optimize` in a process of its own; what it delivered, with its claim."""
    command = [sys.executable, "-m", "strop", "optimize", model, "--trust", "--within", within]
    command += ["--data", str(data), "--train", str(train), "--budget", budget]
    command += ["--batch", str(batch), "--output", str(output), *more]
    for name in techniques:
        command += ["--technique", name]
    began = time.monotonic()
    subprocess.run(command, check=True)
    result = Result.read(output / "result.json")
    proven, claim = result.delivered.evidence.prove_quality, strop.load(output / "bundle").claim
    return {
        "delivered": result.delivered.text,
        "seconds": time.monotonic() - began,
        "claim": None if claim is None else claim.to_dict(),
        "drop": None if proven is None else proven.drop.estimate,
        "trials": len(result.trials),
        "bundle": str(output / "bundle"),
    }


def timed(calls: Mapping[str, tuple[Run, Mapping[str, np.ndarray]]]) -> dict[str, float]:
    """Median seconds of a call of each, in turn, so that a slow moment hits them alike."""
    repeats = {}
    for name, (run, arrays) in calls.items():
        run(arrays)
        began = time.perf_counter()
        run(arrays)
        took = time.perf_counter() - began
        repeats[name] = max(1, int(_SECONDS_A_ROUND / max(took, 1e-6)))
    found: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(_ROUNDS):
        for name, (run, arrays) in calls.items():
            began = time.perf_counter()
            for _ in range(repeats[name]):
                run(arrays)
            found[name].append((time.perf_counter() - began) / repeats[name])
    return {name: float(np.median(values)) for name, values in found.items()}


def ort(path: Path) -> Run:
    """ONNX Runtime's own defaults, on all cores."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda arrays: session.run(None, dict(arrays))


def eager(module: Any) -> Run:
    """PyTorch without a graph, on all cores."""
    import torch

    def run(arrays: Mapping[str, np.ndarray]) -> Any:
        with torch.inference_mode():
            return module(*(torch.from_numpy(array) for array in arrays.values()))

    return run


def accuracy(run: Run, arrays: Mapping[str, np.ndarray], targets: np.ndarray) -> float:
    """Share of right answers, 250 examples at a time."""
    hits = 0
    for start in range(0, len(targets), 250):
        found = run({name: array[start : start + 250] for name, array in arrays.items()})
        scores = next(iter(found.values())) if isinstance(found, Mapping) else found[0]
        hits += int((np.asarray(scores).argmax(1) == targets[start : start + 250]).sum())
    return hits / len(targets)


def merge(piece: str, found: Mapping[str, Any]) -> None:
    """Put one piece's results into results.json, with the machine it ran on, and write README."""
    path = HERE / "results.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    results[piece] = {**found, "machine": machine()}
    path.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
    write(HERE)


def write(folder: Path) -> None:
    """README.md from results.json and coreset.json, as far as they are there."""
    lines = [
        "# Training in the search",
        "",
        "Written by the scripts of this folder, each piece measured alone on a machine that did",
        "nothing else. `python benchmarks/training/run.py --data DIR [--only PIECE ...]`.",
        "",
    ]
    results_path, coreset_path = folder / "results.json", folder / "coreset.json"
    results = json.loads(results_path.read_text()) if results_path.exists() else {}
    if results:
        lines += [
            "| piece | what it is | budget | quality | size | "
            "× eager, batch 64 | × eager, batch 1 | × ORT FP32, batch 64 |",
            "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
            *(_row(name, piece) for name, piece in sorted(results.items())),
            "",
            *_machines(results.values()),
        ]
    if coreset_path.exists():
        import coreset

        document = json.loads(coreset_path.read_text())
        lines += [
            "## A coreset beside a random choice",
            "",
            *coreset.table(document["runs"]),
            "",
            *_machines([document]),
        ]
    (folder / "README.md").write_text("\n".join(lines).rstrip() + "\n")


def _row(name: str, piece: Mapping[str, Any]) -> str:
    ratios = piece.get("ratios", {})

    def times(key: str) -> str:
        return f"{ratios[key]:.1f}" if key in ratios else "–"

    shrunk = f"1/{piece['smaller']:.0f}" if piece.get("smaller") else "–"
    quality = f"{piece['quality']:.2%} of {piece['original_quality']:.2%}"
    if piece.get("claim"):
        quality += f", {piece['claim']['kind']}"
    return (
        f"| {name} | {piece['delivered']} | {piece['budget']} | {quality} | {shrunk} "
        f"| {times('eager 64')} | {times('eager 1')} | {times('ort 64')} |"
    )


def _machines(pieces: Any) -> list[str]:
    found = {
        f"{p['machine']['cpu']}, {p['machine']['cores']} cores, {p['machine']['memory']}, "
        f"Python {p['machine']['python']}"
        for p in pieces
    }
    return [f"Machine: {line}." for line in sorted(found)] + [""]

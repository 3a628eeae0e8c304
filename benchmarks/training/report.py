"""What the scripts of this folder share: searches, timings, and one README from all results."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from strop.measure import describe
from strop.records import Result

HERE = Path(__file__).parent
ALONE = ("prune", "distil", "qat", "int8")
STOCK = ("nncf-qat", "torch-pruning", "inc")
HANDMADE = ("by-hand-narrow", "by-hand-pruned")
FASHION = (*ALONE, "joint", *HANDMADE, *STOCK)
EQUAL = 0.01
UNSEEN = {
    "efficientnet": "EfficientNet-Lite0 on crops of photographs",
    "minilm": "MiniLM on mails",
}
_DELIVERED = (0, 3)  # something better, or the original again


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
    done = subprocess.run(command, check=False)
    if done.returncode not in _DELIVERED:
        raise SystemExit(f"strop optimize ended with {done.returncode}")
    return {**recorded(output), "seconds": time.monotonic() - began}


def recorded(output: Path) -> dict[str, Any]:
    """What a finished search has left in its folder."""
    result = Result.read(output / "result.json")
    proven = result.delivered.evidence.prove_quality
    return {
        "delivered": result.delivered.text,
        "claim": None if result.claim is None else result.claim.to_dict(),
        "claim_text": "" if result.claim is None else str(result.claim),
        "drop": None if proven is None else proven.drop.estimate,
        "trials": len(result.trials),
    }


def merge(piece: str, found: Mapping[str, Any]) -> None:
    """Put one piece's results into results.json, with the machine it ran on, and write README."""
    path = HERE / "results.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    results[piece] = {**found, "machine": machine()}
    path.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
    write(HERE)


def remeasured(piece: str, figures: Mapping[str, Any], output: Path) -> None:
    """New figures of a piece in place of the old; what its search found stays."""
    path = HERE / "results.json"
    before = json.loads(path.read_text()).get(piece, {}) if path.exists() else {}
    left = recorded(output) if (output / "result.json").exists() else {"delivered": piece}
    merge(piece, {**left, **before, **figures})


def write(folder: Path) -> None:
    """README.md from results.json and coreset.json, as far as they are there."""
    lines = [
        "# Training in the search",
        "",
        "Written by the scripts of this folder: `python benchmarks/training/run.py --data DIR",
        "[--only PIECE ...]` searches, one piece after the other (these on a machine that others",
        "used as well, so that a budget bought fewer steps than it would alone), then the",
        "same with `--measure-only`, which times them side by side.",
        "",
    ]
    results_path, coreset_path = folder / "results.json", folder / "coreset.json"
    results = json.loads(results_path.read_text()) if results_path.exists() else {}
    fashion = {name: results[name] for name in FASHION if "ratios" in results.get(name, {})}
    if fashion:
        lines += ["## Fashion-MNIST: what each technique brings", "", *ablation(fashion), ""]
    if "ratios" in results.get("trouble", {}):
        lines += ["## A network made to trouble pruning", ""]
        lines += [*_table({"trouble": results["trouble"]}), ""]
    for name, title in UNSEEN.items():
        if "table" in results.get(name, {}):
            lines += [f"## {title}", "", *unseen(results[name]), ""]
    if results:
        lines += _machines(results.values())
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


def ablation(pieces: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Markdown lines: each technique alone, all of them, the stock pipelines; who is ahead."""
    lines = _table(pieces)
    fair = {name: piece for name, piece in pieces.items() if _loss(piece) <= EQUAL}
    lines += [
        "",
        f"Equal accuracy means: at most {100 * EQUAL:g} points below the original on the 10,000",
        "test images. Rows outside it are in brackets and are compared with nothing.",
    ]
    if "joint" in fair:
        for title, names in (
            ("technique alone", ALONE),
            ("recipe made by hand", HANDMADE),
            ("stock pipeline", STOCK),
        ):
            rivals = [name for name in names if name in fair]
            if rivals:
                lines.append(_ahead(fair, title, rivals))
    together = fair.get("joint", {}).get("timed_with", list(pieces))
    if apart := [name for name in pieces if name not in together]:
        lines += ["", f"Timed in an earlier run than the rest: {', '.join(apart)}."]
    if missing := [name for name in ALONE if name not in pieces]:
        lines += ["", f"Not measured alone with this code: {', '.join(missing)}."]
    if any(name in pieces for name in HANDMADE):
        lines += [
            "",
            "The recipes made by hand (`handmade.py`) trained for their whole budget; a search has",
            "55% of its budget to train in, over all that it tries.",
        ]
    mine = fair.get("joint", {}).get("call_seconds", {})
    if "floor 1" in mine:
        eager, floor = mine["eager 1"], mine["floor 1"]
        lines += [
            "",
            f"At batch 1 a call of the joint result takes {1e3 * mine['mine 1']:.3f} ms; of these,",
            f"{1e3 * floor:.3f} ms are the engine's own: so long takes a graph that only passes",
            f"its input on. No network on that engine could be more than {eager / floor:.0f} times",
            "as fast as eager PyTorch there.",
        ]
    return lines


def unseen(piece: Mapping[str, Any]) -> list[str]:
    """Markdown lines: a bundle beside other engines and tools on examples it never met."""
    lines = [
        f"{piece['delivered']}; searched for {piece.get('budget', '–')}; "
        f"{piece['claim_text'] or 'no claim'}.",
        f"Below, {piece['rows']:,} examples that strop was never given, {piece['unseen']}.",
        "",
        f"| | {piece['metric']} (95% interval) | ms, batch 1 | × |",
        "| --- | --- | ---: | --- |",
    ]
    for name, row in piece["table"].items():
        low, high = row["interval"]
        times = ""
        if "times" in row:
            found = row["times"]
            times = f"{found['ratio']:.2f} [{found['low']:.2f}, {found['high']:.2f}]"
        text = f"{row['quality']:.{piece['digits']}f} [{low:.{piece['digits']}f}, "
        text += f"{high:.{piece['digits']}f}]"
        lines.append(f"| {name} | {text} | {1e3 * row['seconds']:.2f} | {times} |")
    times_of = piece.get("times_of", "the row's time over the delivered model's")
    lines += ["", f"× is {times_of}, over fresh launches."]
    for line in piece.get("notes", ()):
        lines += ["", line]
    return lines


def _table(pieces: Mapping[str, Mapping[str, Any]]) -> list[str]:
    return [
        "| piece | what it is | budget | quality | files | weights | "
        "× eager, batch 64 | × eager, batch 1 | × ORT FP32, batch 64 |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        *(_row(name, piece) for name, piece in pieces.items()),
    ]


def _row(name: str, piece: Mapping[str, Any]) -> str:
    ratios = piece.get("ratios", {})
    outside = _loss(piece) > EQUAL

    def times(key: str) -> str:
        text = f"{ratios[key]:.1f}" if key in ratios else "–"
        return f"({text})" if outside else text

    files, weights = (
        f"1/{piece[key]:.0f}" if piece.get(key) else "–" for key in ("smaller", "weights")
    )
    quality = f"{piece['quality']:.2%} of {piece['original_quality']:.2%}"
    if piece.get("claim"):
        quality += f", {piece['claim']['kind']}"
    return (
        f"| {name} | {piece['delivered']} | {piece.get('budget', '–')} | {quality} "
        f"| {files} | {weights} | {times('eager 64')} | {times('eager 1')} | {times('ort 64')} |"
    )


def _loss(piece: Mapping[str, Any]) -> float:
    return float(piece["original_quality"] - piece["quality"])


def _ahead(pieces: Mapping[str, Mapping[str, Any]], title: str, rivals: Sequence[str]) -> str:
    """How the joint result compares with the fastest of some, at batch 64."""
    best = max(rivals, key=lambda name: float(pieces[name]["ratios"]["eager 64"]))
    joint, other = pieces["joint"], pieces[best]
    times = joint["ratios"]["eager 64"] / other["ratios"]["eager 64"]
    together = best in joint.get("timed_with", ())
    how = "timed in one run" if together else "by their ratios to eager PyTorch in separate runs"
    return f"\nThe joint result is {times:.2f}× the best {title}, `{best}`, at batch 64 ({how})."


def _machines(pieces: Any) -> list[str]:
    found = {
        f"{p['machine']['cpu']}, {p['machine']['cores']} cores, {p['machine']['memory']}, "
        f"Python {p['machine']['python']}"
        for p in pieces
    }
    return [f"Machine: {line}." for line in sorted(found)] + [""]

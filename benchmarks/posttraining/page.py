"""README.md from results.json."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def readme(results: Mapping[str, Any]) -> str:
    """The page as one text."""
    lines = [
        "# Without training, without labels",
        "",
        "Written by `python benchmarks/posttraining/run.py`; the figures are in `results.json`.",
        "",
    ]
    if "efficientnet-lite0" in results:
        lines += [*_photographs(results["efficientnet-lite0"]), ""]
    if "minilm" in results:
        lines += [*_mails(results["minilm"]), ""]
    for name, found in results.items():
        machine = found["machine"]
        packages = ", ".join(f"{key} {value}" for key, value in machine["packages"].items())
        lines.append(
            f"{name}: {machine['cpu']}, {machine['cores']} cores, {machine['memory']}, Python "
            f"{machine['python']}, {packages}; {found['date']}."
        )
        lines.append("")
    return "\n".join(lines)


def _photographs(found: Mapping[str, Any]) -> Iterator[str]:
    yield "## EfficientNet-Lite0: top class as the original's"
    yield ""
    yield from _outcome(found)
    yield ""
    yield (
        f"On {found['fresh']:,} crops that the search was never given, agreement with the "
        "original, 95% interval:"
    )
    yield ""
    yield "| | agreement | ms, batch 1 | × |"
    yield "| --- | --- | ---: | --- |"
    for name, row in found["table"].items():
        low, high = row["interval"]
        quality = f"{row['quality']:.3f} [{low:.3f}, {high:.3f}]"
        times = _times(row["times"]) if "times" in row else ""
        yield f"| {name} | {quality} | {1e3 * row['seconds']:.2f} | {times} |"
    yield ""
    yield (
        "All crops are of the same ten photographs; INT8 was calibrated on 256 others of them. "
        "× is the time of the fastest that changes no decision over the delivered one's, over "
        "fresh launches."
    )
    yield ""
    yield (
        f"The frontier of the search: of what it timed, all that nothing else beats in both. "
        f"Agreement on its {found['searched']:,} crops, speed against the fastest equivalent, a "
        "few rounds of each:"
    )
    yield ""
    yield "| agreement | × | |"
    yield "| ---: | ---: | --- |"
    for row in found["frontier"]:
        yield f"| {row['agreement']:.2%} | {row['times']:.2f} | {row['recipe']} |"


def _mails(found: Mapping[str, Any]) -> Iterator[str]:
    before, after = (f"{size / 1e6:.1f} MB" for size in found["bytes"])
    low, high = found["interval"]
    yield "## MiniLM: the smallest file"
    yield ""
    yield from _outcome(found)
    yield ""
    yield (
        f"{before} became {after}: **{found['smaller']:.2f}× smaller**. On {found['fresh']:,} "
        f"mails that the search was never given the cosine with the original's embedding is "
        f"{found['quality']:.4f} [{low:.4f}, {high:.4f}] on average and {found['least']:.4f} at "
        f"least. At batch 1 it is {_times(found['times'])} as fast as the original on ONNX Runtime."
    )


def _outcome(found: Mapping[str, Any]) -> Iterator[str]:
    yield (
        f"`--within {found['within']} --budget {found['budget']}`, {found['trials']} trials: "
        f"{found['delivered']}; {found['claim'] or 'no claim'}."
    )
    if found["status"] == "unimproved" and found["near_miss"]:
        yield f"The original went back; nearest was {found['near_miss']}."


def _times(found: Mapping[str, float]) -> str:
    return f"{found['ratio']:.2f}× [{found['low']:.2f}, {found['high']:.2f}]"

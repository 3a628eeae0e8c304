"""README.md from results.json."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from candidates import DELIVERED, EAGER
from judging import geometric_mean

AIMS = {"eager": 12.0, "best": 1.15}
_ORT = "ORT fp32"


def readme(results: Mapping[str, Any]) -> str:
    """The whole page."""
    entries = results["entries"]
    return "\n".join(
        [
            "# strop beside the stock tools",
            "",
            "Written by `python benchmarks/zoo/run.py`; the figures are in `results.json`. For",
            "each model of `examples/zoo`: the bundle that `strop optimize` delivers, PyTorch",
            "eager, and what ONNX Runtime, OpenVINO, NNCF, Olive and Intel Neural Compressor give",
            "with their defaults. A process each, interleaved, in one run a model.",
            "",
            "```console",
            "$ python examples/zoo/fetch.py --output zoo --cache cache",
            "$ STROP_ZOO_CACHE=cache python benchmarks/zoo/run.py --zoo zoo --output zoo-benchmark",
            "```",
            "",
            *_overview(entries),
            *_aims(entries),
            *_notes(results),
            *(line for entry in entries for line in _section(entry)),
        ]
    )


def fails(entry: Mapping[str, Any]) -> bool:
    """Whether held-out rows contradict the claim, or a stock result is surely faster."""
    return (
        entry["quality"]["claim_holds"] == "contradicted" or entry["timing"]["verdict"] == "slower"
    )


def _overview(entries: list[dict[str, Any]]) -> Iterator[str]:
    yield "| model | claim | delivered | × eager | × ONNX Runtime | best stock within tolerance |"
    yield "| --- | --- | --- | ---: | ---: | --- |"
    for entry in entries:
        pairs, best = entry["timing"]["pairs"], entry["timing"]["best"]
        against = "none"
        if best is not None:
            against = f"{best}: **{_ratio(pairs[best])}**, {entry['timing']['verdict']}"
        yield (
            f"| {entry['name']} | {entry['search']['claim_text'] or 'none'} "
            f"| {entry['search']['delivered']} | {_ratio(pairs.get(EAGER))} "
            f"| {_ratio(pairs.get(_ORT))} | {against} |"
        )
    yield ""
    yield "| model | claim on held-out rows | drop there (one-sided 95% bounds) | rows | metric |"
    yield "| --- | --- | --- | ---: | --- |"
    for entry in entries:
        quality = entry["quality"]
        row = quality["rows"].get(DELIVERED, {})
        yield (
            f"| {entry['name']} | {quality['claim_holds']} | {_drop(row)} | {quality['n']} "
            f"| {_metric(quality)} |"
        )
    yield ""


def _aims(entries: list[dict[str, Any]]) -> Iterator[str]:
    for label, name, ratios in (
        ("PyTorch eager", "eager", [_estimate(entry, EAGER) for entry in entries]),
        (
            "the best stock result within the tolerance",
            "best",
            [_estimate(entry, entry["timing"]["best"]) for entry in entries],
        ),
    ):
        known = [ratio for ratio in ratios if ratio is not None]
        if known:
            mean = geometric_mean(known)
            met = "met" if mean >= AIMS[name] else "missed"
            yield (
                f"- {mean:.2f}× {label} in geometric mean over {len(known)} of {len(entries)} "
                f"models (aim: {AIMS[name]:g}×, {met})"
            )
    yield ""


def _notes(results: Mapping[str, Any]) -> Iterator[str]:
    machine, settings = results["machine"], results["settings"]
    isa = ", ".join(machine["isa"])
    versions = ", ".join(f"{name} {value}" for name, value in results["versions"].items())
    yield from (
        "## How to read this",
        "",
        "- *× rival* is the rival's time over the delivered model's, with its 95% interval over "
        f"{settings['launches']} fresh launch pairs of ABBA quads (half as many for eager and ONNX "
        "Runtime): above 1 strop is faster. The milliseconds below come from one launch a "
        "candidate, in interleaved rounds: they order, and no claim rests on them.",
        "- *Within* is decided in the stock tools' favour: a stock result counts when the point "
        "estimate of its drop on the held-out rows stays within the tolerance, although nothing "
        "is proven of it, and the choice among them is made on these very rows.",
        f"- *Not slower*: the lower bound is above {1 - settings['margin']:.2f}. The rival is the "
        "one with the lowest ratio among all stock results within 10% of the fastest in rounds.",
        "- *Confirmed*: the claim's own test rejects on the held-out rows alone. *Consistent*: "
        "too few of them to prove it again, and they do not speak against it. *Contradicted*: the "
        "lower bound of the drop is above the tolerance.",
        "- `data.npz` is all that strop was given. The stock tools calibrate on the rows that "
        "strop calibrates on.",
        "- OpenVINO left to itself computes in BF16 where the CPU has it; that is its default, so "
        "it is a row, and its FP32 another. Threads are those of the cores granted, and pinned by "
        "affinity, for every candidate.",
        "- Magika and PP-OCR are published as ONNX files, so there is no module to run eagerly.",
        f"- Load averages just before timing: {_loads(results['entries'])}; eager PyTorch suffers "
        "most from company.",
        "- A search starts with an empty cache and an empty ledger, as a new user's does.",
        "- Order and defaults of strop's search were chosen on fashion-mnist, efficientnet-lite0, "
        "minilm, pp-ocr and magika; see docs/search.md. How it reckons what a trial costs was "
        "mended after its first run on crepe, which came to 0.37× the best stock result; how far "
        "static INT8 spreads (`reach`) was chosen on movielens, crepe and fashion-mnist.",
        "",
        f"{machine['cpu']}, {len(machine['cpus'])} logical CPUs granted ({isa}); "
        f"{results['date']}; {versions}. Tools in environments of their own: "
        f"{_tool_versions(results['entries'])}.",
        "",
    )


def _section(entry: Mapping[str, Any]) -> Iterator[str]:
    quality, times, search = entry["quality"], entry["timing"], entry["search"]
    batches = list(times["rounds"])
    yield f"## {entry['name']}: within {entry['within']}"
    yield ""
    yield f"Tolerance: {entry['reason']}. {_search_line(search)}"
    yield ""
    head = " | ".join(f"batch {batch}, ms" for batch in batches)
    yield f"| candidate | {head} | drop (one-sided 95% bounds) | within | × rival | notes |"
    yield "| --- |" + " ---: |" * len(batches) + " --- | --- | ---: | --- |"
    first = times["rounds"][batches[0]]
    rows = sorted(
        entry["rows"], key=lambda row: first.get(row["name"], {}).get("seconds", float("inf"))
    )
    for row in rows:
        name = row["name"]
        if "error" in row:
            blanks = " |" * len(batches)
            yield f"| {name} |{blanks} | | | {row['error']} |"
            continue
        figures = " | ".join(_milliseconds(times["rounds"][batch].get(name)) for batch in batches)
        judged = quality["rows"].get(name, {})
        within = "" if "within" not in judged else "yes" if judged["within"] else "no"
        shown = f"**{name}**" if name == DELIVERED else name
        yield (
            f"| {shown} | {figures} | {_drop(judged)} | {within} "
            f"| {_ratio(times['pairs'].get(name), blank='')} | {row.get('note', '')} |"
        )
    yield ""


def _search_line(search: Mapping[str, Any]) -> str:
    seconds = search["seconds"]
    total, own = seconds["total"], seconds["own"]
    line = (
        f"strop tried {search['trials']} recipes in {total:.0f} s "
        f"(budget {search['budget_seconds']:.0f} s, {own / total:.1%} of it strop's own work)."
    )
    return line if search["status"] == "improved" else f"{line} Unimproved: {search['reason']}."


def _estimate(entry: Mapping[str, Any], name: str | None) -> float | None:
    found = entry["timing"]["pairs"].get(name, {})
    return found.get("ratio")


def _ratio(found: Mapping[str, Any] | None, blank: str = "–") -> str:
    if not found or "ratio" not in found:
        return blank
    return f"{found['ratio']:.2f} [{found['low']:.2f}, {found['high']:.2f}]"


def _drop(row: Mapping[str, Any]) -> str:
    if "drop" not in row:
        return str(row.get("error", ""))
    return f"{row['drop']:.2%} [{row['low']:.2%}, {row['high']:.2%}]"


def _metric(quality: Mapping[str, Any]) -> str:
    return f"{quality['metric']}, original {quality['reference']:.2%}"


def _milliseconds(row: Mapping[str, Any] | None) -> str:
    if row is None or "seconds" not in row:
        return "–" if row is None else str(row.get("error", "–"))
    return f"{row['seconds'] * 1e3:.3g}"


def _loads(entries: list[dict[str, Any]]) -> str:
    return ", ".join(f"{entry['timing']['load_before']:.1f}" for entry in entries) or "none"


def _tool_versions(entries: list[dict[str, Any]]) -> str:
    found: dict[str, None] = {}
    for entry in entries:
        for row in entry["rows"]:
            if row["name"].startswith(("Olive", "INC")) and row.get("versions"):
                versions = row["versions"].items()
                found[" with ".join(f"{package} {number}" for package, number in versions)] = None
    return "; ".join(found) or "none could be installed"

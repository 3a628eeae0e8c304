"""The figures of docs/gallery.md, from results.json.

    python benchmarks/zoo/gallery.py

Between `<!-- gallery: NAME -->` and `<!-- end -->` the page holds what is written here: the two
commands of a model and what came of them, and for `table` all models in one table. The text around
is written by hand.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from candidates import DELIVERED
from entries import ENTRIES, HERE, Entry

PAGE = HERE.parents[1] / "docs" / "gallery.md"
BEFORE = "ORT fp32"
_BLOCK = re.compile(r"(?<=<!-- gallery: )(?P<name>\S+)( -->\n).*?(?=<!-- end -->)", re.DOTALL)


def main() -> None:
    write(json.loads((HERE / "results.json").read_text()))


def write(results: Mapping[str, Any], page: Path = PAGE) -> None:
    """Fill the page's blocks."""
    page.write_text(filled(page.read_text(encoding="utf-8"), results), encoding="utf-8")


def filled(text: str, results: Mapping[str, Any]) -> str:
    """The page's text with its blocks made from `results`; a name that is no entry is an error."""
    measured = {entry["name"]: entry for entry in results["entries"]}
    known = {entry.name: entry for entry in ENTRIES}

    def block(found: re.Match[str]) -> str:
        name = found["name"]
        if name == "table":
            lines = list(table(results))
        else:
            lines = list(section(known[name], measured.get(name)))
        return "\n".join([f"{name} -->", *lines, ""])

    return _BLOCK.sub(block, text)


def table(results: Mapping[str, Any]) -> Iterator[str]:
    """Three rows a model: as it was published, the best stock result, what strop delivered."""
    yield (
        "| model | what | quality, % | lost | ms | examples/s | memory, MB | size, MB "
        "| strop is faster | claim |"
    )
    yield "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |"
    for entry in results["entries"]:
        best = entry["timing"]["best"]
        rows = {BEFORE: "before: ONNX Runtime", DELIVERED: "**after: strop**"}
        if best is not None and best != BEFORE:
            rows = {BEFORE: rows[BEFORE], best: f"best stock: {best}", DELIVERED: rows[DELIVERED]}
        for name, label in rows.items():
            model = entry["name"] if name == BEFORE else ""
            claim = _claimed(entry) if name == DELIVERED else ""
            yield f"| {model} | {label} | {' | '.join(_figures(entry, name))} | {claim} |"
    yield ""
    for entry in results["entries"]:
        yield f"- {entry['name']}: {_claim(entry)}."
    yield ""
    machine = results["machine"]
    yield (
        f"{machine['cpu']}, {len(machine['cpus'])} logical CPUs granted "
        f"({', '.join(machine['isa'])}); {results['date']}."
    )


def section(entry: Entry, measured: Mapping[str, Any] | None) -> Iterator[str]:
    """The two commands of one model, and its figures before and after where there are some."""
    name = entry.name
    within = entry.within if measured is None else measured["within"]
    options = " ".join(["", *entry.options(Path("zoo") / name)])
    yield "```console"
    yield f"$ python examples/zoo/fetch.py {name} --output zoo"
    yield (
        f"$ strop optimize zoo/{name}/model.onnx --data zoo/{name}/data.npz "
        f"--within {within}{options}"
    )
    yield "```"
    yield ""
    if measured is None:
        yield "Not in the table yet: not measured beside the stock tools so far."
        return
    batches = list(measured["timing"]["rounds"])
    quality = measured["quality"]
    labels = (
        f"{quality['metric']} on {quality['n']:,} held-out examples, %",
        "lost there, points",
        f"ms at batch {batches[0]}",
        f"examples/s at batch {batches[-1]}",
        "memory, MB",
        "size, MB",
    )
    before, after = _figures(measured, BEFORE), _figures(measured, DELIVERED)
    yield f"| | before: ONNX Runtime | after: {measured['search']['delivered']} |"
    yield "| --- | ---: | ---: |"
    for label, *figures in zip(labels, before, after, strict=False):
        yield f"| {label} | {' | '.join(figures)} |"
    yield ""
    claim = _claim(measured)
    yield f"{claim[0].upper()}{claim[1:]}."


def _figures(entry: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """Of one candidate: quality, points lost, ms, examples a second, MB of memory and files, ratio.

    Milliseconds are at the first batch size, examples a second at the last; the ratio is its time
    over the delivered model's. An en dash where something is not known.
    """
    rounds = entry["timing"]["rounds"]
    batches = list(rounds)
    seconds = [rounds[batch].get(name, {}).get("seconds") for batch in (batches[0], batches[-1])]
    quality = entry["quality"]
    drop = quality["rows"].get(name, {}).get("drop")
    held = entry.get("footprint", {}).get(name, {})
    pair = entry["timing"]["pairs"].get(name, {})
    return (
        "–" if drop is None else f"{(quality['reference'] - drop) * 100:.2f}",
        "–" if drop is None else _points(drop),
        "–" if seconds[0] is None else f"{seconds[0] * 1e3:.3g}",
        "–" if seconds[1] is None else _rounded(int(batches[-1]) / seconds[1]),
        _megabytes(held.get("peak")),
        _megabytes(held.get("file")),
        f"{pair['ratio']:.2f} [{pair['low']:.2f}, {pair['high']:.2f}]" if "ratio" in pair else "",
    )


def _claim(entry: Mapping[str, Any]) -> str:
    """The claim's own words, and what the rows that strop never saw say of it."""
    text = entry["search"]["claim_text"]
    if not text:
        return f"no claim: {entry['search']['reason']}"
    return f"{text}; on held-out examples {entry['quality']['claim_holds']}"


def _claimed(entry: Mapping[str, Any]) -> str:
    """The claim in a few words, for the table."""
    claim = entry["search"]["claim"]
    if claim is None:
        return "none"
    within = f" within {_points(claim['tolerance'])}" if claim["tolerance"] is not None else ""
    return f"{claim['kind']}{within}, {entry['quality']['claim_holds']}"


def _points(drop: float) -> str:
    """
    >>> _points(0.024), _points(-0.0013), _points(0.0)
    ('2.4', '−0.13', '0')
    """
    text = f"{abs(drop) * 100:.2f}".rstrip("0").rstrip(".")
    return f"−{text}" if drop < 0 and text != "0" else text


def _rounded(value: float) -> str:
    """
    >>> _rounded(4519.7), _rounded(21.37)
    ('4,520', '21.4')
    """
    exact = float(f"{value:.3g}")
    return f"{exact:,.0f}" if exact >= 100 else f"{exact:g}"


def _megabytes(size: int | None) -> str:
    """
    >>> _megabytes(2_786_970), _megabytes(None)
    ('2.79', '–')
    """
    return "–" if size is None else _rounded(size / 1e6)


if __name__ == "__main__":
    main()

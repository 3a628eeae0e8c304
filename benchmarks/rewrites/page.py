"""README.md from results.json."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import variants

_SAME = 0.02
"""An interval within so much of 1 is called the same."""


def readme(results: Mapping[str, Any]) -> str:
    """The page as one text."""
    return "\n".join(
        (*_head(results), *(line for model in results["models"] for line in _section(model)))
    )


def _head(results: Mapping[str, Any]) -> Iterator[str]:
    machine, settings = results["machine"], results["settings"]
    versions = ", ".join(f"{name} {value}" for name, value in results["versions"].items())
    loads = ", ".join(f"{model['load_before']:.1f}" for model in results["models"])
    yield from (
        "# What each rewrite brings",
        "",
        "Written by `python benchmarks/rewrites/run.py`; the figures are in `results.json`. Graph",
        "rewrites that keep the function, each with what it does to time on engines that optimise",
        "graphs themselves.",
        "",
        "```console",
        "$ python examples/zoo/fetch.py --output zoo",
        "$ python benchmarks/rewrites/run.py --zoo zoo",
        "```",
        "",
        "- *× faster*: time without the rewrite over time with it, both FP32, the same engine",
        "  and settings, with the 95% interval over "
        f"{settings['launches']} pairs of fresh processes: above 1",
        "  the rewrite helps. Where the interval lies within 2% of 1, the engine does the same by",
        "  itself, or it makes no difference.",
        f"- *{variants.CLEANUP}* is the technique as a whole against the original. Each pass",
        "  below it is the clean-up against the clean-up without that pass, so gains of passes",
        "  that build on one another do not add up. Passes that change nothing are not timed.",
        f"- *{variants.SHAPES}*: every dimension of the inputs fixed to what is timed, against",
        "  free ones, after the clean-up. In ONNX Runtime by the file, in OpenVINO by its option",
        "  `shapes=static`, which strop's search tries.",
        f"- *{variants.PADDING}*: the technique, after the clean-up, on a row of median length.",
        "- *error*: largest relative error of an output row beside the original's, on the inputs",
        "  that are timed.",
        "- What clean-up does for quantisers, which find more layers in a folded graph, is not in",
        "  this table.",
        f"- Load averages before each model: {loads}.",
        "",
        f"{machine['cpu']}, {settings['threads']} threads, batch {settings['batch']}; "
        f"{results['date']}; {versions}.",
        "",
    )


def _section(model: Mapping[str, Any]) -> Iterator[str]:
    counts = model["operators"]
    engines = list(dict.fromkeys(name for row in model["rows"] for name in row["gains"]))
    yield f"## {model['name']}"
    yield ""
    if counts["original"] == counts["cleaned"]:
        yield f"{counts['original']} operators; there is nothing to clean up."
    else:
        yield f"{counts['original']} operators, {counts['cleaned']} after the clean-up."
    yield ""
    heads = " | ".join(f"{name}, × faster" for name in engines)
    yield f"| rewrite | operators | {heads} | error |"
    yield "| --- | ---: |" + " ---: |" * len(engines) + " ---: |"
    for row in model["rows"]:
        before, after = row["operators"]
        count = f"{before}" if before == after else f"{before} → {after}"
        gains = " | ".join(_gain(row["gains"][name]) for name in engines)
        name = variants.label(row["change"])
        yield f"| {name} | {count} | {gains} | {row['relative_error']:.1g} |"
    yield ""
    idle = [variants.label(name) for name in model["without_effect"]]
    if idle and counts["original"] != counts["cleaned"]:
        yield f"Without effect here: {', '.join(idle)}."
        yield ""


def _gain(found: Mapping[str, Any]) -> str:
    if "error" in found:
        return str(found["error"]).replace("|", "\\|")
    text = f"{found['ratio']:.2f} [{found['low']:.2f}, {found['high']:.2f}]"
    same = found["low"] > 1 - _SAME and found["high"] < 1 + _SAME
    return f"{text}, the same" if same else f"**{text}**" if found["low"] > 1 else text

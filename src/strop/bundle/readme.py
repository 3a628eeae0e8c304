"""``README.md`` of a bundle: what it is, what is claimed, how to load it."""

from __future__ import annotations

from strop.bundle.layout import CODE, PREPROCESS
from strop.bundle.runner import PACKAGES
from strop.records import Manifest


def text(manifest: Manifest) -> str:
    """The page, as Markdown."""
    machine = manifest.machine
    names = ", ".join(f"{spec.name}=…" for spec in manifest.signature.inputs)
    if not all(spec.name.isidentifier() for spec in manifest.signature.inputs):
        names = "**{" + ", ".join(f'"{spec.name}": …' for spec in manifest.signature.inputs) + "}"
    trust = ", trust=True" if manifest.form in CODE else ""  # it is code
    lines = [
        f"# {manifest.name}",
        "",
        f"A model made fast by strop {manifest.strop} on {manifest.created[:10]}.",
        "",
        f"- **Claim:** {manifest.claim or 'none; it could not be shown to match the original'}.",
        f"- **Recipe:** {manifest.recipe}",
        *_start(manifest),
        f"- **Signature:** `{manifest.signature}`",
        *_figures(manifest),
        f"- **Machine:** {machine.cpu} ({machine.architecture}), {machine.cores} logical CPUs",
        "",
        "The figures hold for that machine. On one with other instruction sets the claim is",
        "unproven until `strop verify` has checked it there.",
        "",
        "## Use it",
        "",
        "```python",
        "import strop",
        "",
        f'model = strop.load("path/to/this/folder"{trust})',
        f"outputs = model({names})  # a dict of arrays",
        "```",
        "",
        f"Without strop, with {PACKAGES[manifest.form]} and numpy alone: `python run.py`.",
        f"The model itself is the plain file `{manifest.artifact}`.",
        "",
    ]
    if manifest.preprocess:
        lines += [
            f"Inputs go through `{manifest.preprocess}` first; `{PREPROCESS}` holds its source.",
            "",
        ]
    if manifest.processor:
        lines += [
            f"What makes inputs of text or images lies in `{manifest.processor}/`, as it came with",
            "the model: with transformers, `AutoTokenizer.from_pretrained` or",
            "`AutoImageProcessor.from_pretrained` opens that folder.",
            "",
        ]
    lines += [
        "## Check it",
        "",
        "`strop verify path/to/this/folder` compares digests, runs the sample, and computes the",
        "claim and the speed-ups again from `evidence/`; with `--data` and `--original` it proves",
        "and times them again.",
        "",
    ]
    return "\n".join(lines)


def _start(manifest: Manifest) -> list[str]:
    """Which of several networks it is, where several were given."""
    if not manifest.recipe.start:
        return []
    original = manifest.lineage.get("model", "another network")
    return [f"- **Starts from:** {manifest.recipe.start}; the claim is held against {original}"]


def _figures(manifest: Manifest) -> list[str]:
    lines = []
    for latency in manifest.evidence.latency[:1]:
        threads = f"{latency.threads} thread{'s' if latency.threads != 1 else ''}"
        calls = f", {latency.streams} calls at once" if latency.streams > 1 else ""
        lines.append(
            f"- **Latency:** {latency.p50.estimate * 1e3:.3g} ms a call (median) at batch size "
            f"{latency.batch} on {threads}{calls}"
        )
    for speedup in manifest.evidence.speedups:
        ratio = speedup.ratio
        lines.append(
            f"- **Speed:** {ratio.estimate:.2f}× [{ratio.low:.2f}, {ratio.high:.2f}] against the "
            f"{speedup.against} ({ratio.confidence:.0%} interval, {speedup.launches} launches)"
        )
    return lines

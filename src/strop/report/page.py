"""The page: everything put into one HTML file that asks nothing of the network."""

from __future__ import annotations

import base64
import hashlib
import math
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

import strop
from strop.errors import InputError
from strop.records import Interval, Result
from strop.report import (
    breakdown,
    engines,
    figures,
    glance,
    ladder,
    pareto,
    sources,
    templates,
    trials,
    wording,
)
from strop.report.numbers import Score, duration, percent
from strop.report.sources import Launches, Sources

_HERE = Path(__file__).parent
_PHASES = {
    "import": "reading",
    "build": "building",
    "evaluate": "scoring",
    "time": "timing",
    "prove": "proving",
    "own": "strop itself",
}


@dataclass(frozen=True)
class Section:
    """A section that another room adds, after how long a call takes.

    Attributes
    ----------
    name
        Its id on the page.
    body
        Markup that is trusted: everything in it from outside is escaped already.
    style
        What it needs besides the page's own style.
    """

    name: str
    title: str
    body: Markup
    style: str = ""


def write(folder: Path, sections: Sequence[Section] = ()) -> Path:
    """Write ``report.html`` into an output folder and return its path.

    Parameters
    ----------
    folder
        Holds ``result.json`` (an output folder) or ``evidence/result.json`` (a bundle). Raw
        timings and scores are shown where the bundle's evidence has them. A bundle is sealed by
        its manifest, so that its report is written beside it, as ``BUNDLE-report.html``.

    Raises
    ------
    InputError
        When the folder holds no result, or the disk is full or read-only.
    StropError
        When the result is damaged or of another schema.
    """
    folder = Path(folder)
    text = render(sources.read(folder), sections)
    if (folder / "result.json").is_file():
        target = folder / "report.html"
    else:
        place = folder.resolve()
        target = place.with_name(f"{place.name}-report.html")
    name = ""
    try:
        handle, name = tempfile.mkstemp(prefix=".report-", suffix=".html", dir=target.parent)
        with os.fdopen(handle, "wb") as stream:
            stream.write(text.encode("utf-8", "replace"))
        Path(name).chmod(0o644)
        Path(name).replace(target)
    except OSError as error:
        raise InputError(
            f"the report '{target}' cannot be written: {error.strerror or error}",
            hint=f"make room, then run: strop report {folder}",
        ) from error
    finally:
        if name:
            Path(name).unlink(missing_ok=True)
    return target


def render(given: Sources, sections: Sequence[Section] = ()) -> str:
    """The page as text."""
    style = templates.figure_style() + (_HERE / "report.css").read_text()
    style += "".join(dict.fromkeys(section.style for section in sections))
    script = (_HERE / "report.js").read_text()
    page = templates.get("report.html").render(
        **_context(given),
        sections=sections,
        style=Markup(style),
        script=Markup(script),
        # Only these two texts may run or style: what slipped past escaping could still do nothing.
        policy=f"default-src 'none'; style-src {_allowed(style)}; script-src {_allowed(script)}",
    )
    return templates.printable(page)


def _context(given: Sources) -> dict[str, Any]:
    """Everything that the template shows."""
    result = given.result
    score = Score.of(result)
    found = trials.rows(result, score)
    delivered = result.delivered.evidence
    steps = ladder.ladder(result, given.meta)
    side_by_side = engines.rows(result)
    return {
        "result": result,
        "score": score,
        "title": Path(result.model.partition(":")[0]).name or result.model,
        "headline": wording.headline(result, score),
        "lede": wording.lede(result, score),
        "near_miss": wording.near_miss(result, score),
        "glance": glance.glance(result, score),
        "spending": wording.spending(result),
        "steps": steps,
        "step_rows": [] if steps is None else breakdown.step_rows(steps, score),
        "step_order": "" if steps is None else breakdown.order(steps),
        "whole": breakdown.whole(result),
        "engines": breakdown.engine_lines(side_by_side, score),
        "engines_against": engines.against(result),
        "engines_why": engines.why(result, side_by_side, score),
        "grounds": wording.grounds(result),
        "facts": wording.facts(result, score),
        "claim_picture": _claim_picture(result, score),
        "answers": _answers(result, score),
        "table": _fourfold(given, score),
        "changes": _changes(given, score),
        "plot": pareto.plot(result, trials.shown(result), score),
        "pairs_timed": [_pair(launches, result) for launches in given.launches],
        "rows": found,
        "outcomes": trials.outcomes(found),
        "left_out": len(result.trials) - len(found),
        "operators": _operators(result),
        "notes": delivered.notes,
        "damaged": given.damaged,
        "roles": list(result.data.roles.items()),
        "machine": wording.machine(result),
        "asked": wording.asked(result),
        "spent": _spent(result),
        "total": duration(result.seconds.get("total")),
        "budget": duration(result.budget_seconds),
        "bundle": given.bundle,
        "versions": [
            ("strop", strop.__version__),
            ("Python", result.machine.python),
            *result.machine.packages.items(),
        ],
    }


def _operators(result: Result) -> tuple[int, int, bool] | None:
    """Operators before and after the clean-up, and whether the delivered went through it.

    Where the delivered did not, any trial that did tells what the clean-up would have done.
    """
    delivered = result.delivered.evidence
    for evidence in (delivered, *(trial.evidence for trial in result.trials)):
        before, after = evidence.operators_before, evidence.operators_after
        if before is not None and after is not None:
            return before, after, evidence is delivered
    return None


def _claim_picture(result: Result, score: Score) -> Markup | None:
    claim = result.claim
    if claim is None or claim.upper is None or claim.tolerance is None:
        return None
    quality = result.delivered.evidence.prove_quality
    drop = None if quality is None else quality.drop
    return figures.claim(drop, claim.upper, claim.tolerance, score)


def _answers(result: Result, score: Score) -> str:
    quality = result.delivered.evidence.prove_quality
    if quality is None or quality.kind == "set" or result.claim is None:
        return ""
    return wording.answers(quality.lost, quality.won, quality.n, score)


def _fourfold(given: Sources, score: Score) -> tuple[int, int, int, int] | None:
    """Both right, only the original, only the delivered, neither: of 0/1 scores."""
    before, after = _scores(given)
    if score.kind != "binary" or before is None or after is None:
        return None
    return (
        int(np.sum((before == 1) & (after == 1))),
        int(np.sum((before == 1) & (after == 0))),
        int(np.sum((before == 0) & (after == 1))),
        int(np.sum((before == 0) & (after == 0))),
    )


def _changes(given: Sources, score: Score) -> Markup | None:
    """The histogram of real-valued drops."""
    before, after = _scores(given)
    if score.kind != "bounded" or before is None or after is None:
        return None
    drops = before - after
    drops = drops[np.isfinite(drops)]
    return figures.changes(drops, score) if len(drops) else None


def _scores(given: Sources) -> tuple[np.ndarray | None, np.ndarray | None]:
    before, after = (given.scores.get(f"prove/{who}") for who in ("reference", "delivered"))
    if before is None or after is None or before.shape != after.shape or not before.size:
        return None, None
    return before, after


def _pair(launches: Launches, result: Result) -> dict[str, Any]:
    """One pair's pictures, and what to say of them."""
    interval = _interval(launches, result)
    notes = []
    if launches.shortened:
        notes.append("The budget left fewer launches than planned.")
    if not launches.settled:
        notes.append("Not every warm-up settled before its time was up.")
    return {
        "left": launches.left,
        "right": launches.right,
        "launches": len(launches.log_ratios),
        "calls": (len(launches.left_seconds), len(launches.right_seconds)),
        "batch": " and ".join(map(str, dict.fromkeys((launches.batch, launches.right_batch)))),
        "confidence": None if interval is None else percent(interval.confidence),
        "calls_picture": figures.calls(launches),
        "launches_picture": figures.launches(launches, interval),
        "notes": notes,
    }


def _interval(launches: Launches, result: Result) -> Interval | None:
    """The reported interval of this pair's speed-up."""
    of = {"delivered": result.delivered, "equivalent": result.equivalent}.get(launches.right)
    speedups = () if of is None else of.evidence.speedups
    return next(
        (
            one.ratio
            for one in speedups
            if one.against == launches.left and math.isfinite(one.ratio.estimate)
        ),
        None,
    )


def _spent(result: Result) -> Markup | None:
    """Bars of the wall seconds by phase, the largest first."""
    parts = [
        (_PHASES.get(name, name), seconds)
        for name, seconds in result.seconds.items()
        if name != "total" and math.isfinite(seconds) and seconds >= 0.05
    ]
    parts.sort(key=lambda part: -part[1])
    if not parts:
        return None
    total = result.seconds.get("total", math.nan)
    longest = parts[0][1]
    return figures.spent(parts, max(total, longest) if math.isfinite(total) else longest)


def _allowed(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"

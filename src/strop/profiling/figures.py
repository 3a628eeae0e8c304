"""The pictures: an icicle of a call's time, and memory over time."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from strop.profiling.record import EngineProfile, Operator
from strop.report.svg import Axis, Svg, tick_text

_WIDTH, _ROW, _LETTER = 960.0, 30.0, 7.2
_HUES = 6
_LEAST = 0.4  # of a user unit: anything narrower is drawn as the rest
_MB = 1e6


def icicle(profile: EngineProfile, whole: float | None = None) -> Markup:
    """A call, its kinds of operators below it, and the operators of each kind below that.

    Widths are time. The kinds stand in order of what they cost, operators in order of execution.

    Parameters
    ----------
    whole
        Seconds that the full width stands for, so that pictures share a scale; None for this call.
    """
    picture = Svg(
        _WIDTH,
        3 * _ROW + 2,
        label=f"Time of one call on {profile.engine} by kind of operator and by operator",
        class_="icicle",
        role="group",
    )
    kinds: dict[str, list[Operator]] = {}
    for operator in profile.operators:
        kinds.setdefault(operator.operator, []).append(operator)
    ordered = sorted(kinds.items(), key=lambda item: -sum(op.seconds for op in item[1]))
    axis = Axis(0.0, whole or profile.profiled_seconds or 1.0, 0.0, _WIDTH)
    end = axis(profile.profiled_seconds) if whole else _WIDTH
    _cell(picture, 0.0, end, 0, "call", f"a call {_micro(profile.profiled_seconds)}", "whole")
    begin = 0.0
    for number, (kind, operators) in enumerate(ordered):
        seconds = sum(op.seconds for op in operators)
        hue = f"e{number % _HUES}"
        share = seconds / profile.profiled_seconds if profile.profiled_seconds else 0.0
        told = f"{kind}: {_micro(seconds)}, {share:.1%}, {len(operators)} operators"
        _cell(picture, axis(begin), axis(begin + seconds), 1, kind, told, hue)
        at = begin
        for operator in operators:
            _cell(
                picture,
                axis(at),
                axis(at + operator.seconds),
                2,
                operator.name,
                _told(operator),
                f"{hue} leaf",
            )
            at += operator.seconds
        begin += seconds
    if profile.outside_seconds > 0:
        told = f"in no operator: {_micro(profile.outside_seconds)}"
        _cell(picture, axis(begin), end, 1, "outside", told, "outside")
    return picture.markup()


def memory(profile: EngineProfile) -> Markup:
    """Resident megabytes over seconds; a line marks where loading and running begin."""
    picture = Svg(480, 210, class_="memory", label=f"Resident memory over time on {profile.engine}")
    samples = profile.memory
    if len(samples) < 2:
        return picture.markup()
    across = Axis(0.0, samples[-1].seconds, 56, 470)
    up = Axis(0.0, 1.08 * max(sample.bytes for sample in samples) / _MB, 160, 14)
    ticks = up.ticks(4)
    text = tick_text(ticks)
    for tick in ticks:
        picture.line(56, up(tick), 470, up(tick), class_="axis" if not tick else "grid")
        picture.text(50, up(tick) + 4, text(tick), class_="tick", text_anchor="end")
    seconds = across.ticks(5)
    text = tick_text(seconds)
    for tick in seconds:
        picture.text(across(tick), 177, text(tick), class_="tick", text_anchor="middle")
    picture.text(263, 198, "seconds", class_="name", text_anchor="middle")
    picture.text(6, 12, "MB", class_="name")
    points = " ".join(f"{across(s.seconds):.1f},{up(s.bytes / _MB):.1f}" for s in samples)
    picture.add("polyline", points=points, class_="curve delivered")
    for phase in ("load", "run"):
        first = next((sample for sample in samples if sample.phase == phase), None)
        if first is not None:
            picture.line(across(first.seconds), 14, across(first.seconds), 160, class_="limit")
            picture.text(across(first.seconds) + 4, 24, phase, class_="tick")
    return picture.markup()


def _cell(
    picture: Svg, left: float, right: float, row: int, name: str, told: str, class_: str
) -> None:
    width = right - left
    if width < _LEAST:
        return
    picture.open("g", class_=f"cell {class_}")
    picture.add("title", told)
    picture.add("rect", x=left, y=row * _ROW, width=max(width - 0.6, _LEAST), height=_ROW - 1)
    letters = int((width - 8) / _LETTER)
    if letters >= min(len(name), 3):
        shown = name if len(name) <= letters else name[: letters - 1] + "…"
        picture.text(left + 4, row * _ROW + 19, shown)
    picture.close()


def _told(operator: Operator) -> str:
    parts = [f"{operator.name} ({operator.operator}): {_micro(operator.seconds)}"]
    parts.append(f"{operator.share:.1%} of a call")
    parts += [text for text in (operator.precision, operator.kernel) if text]
    if operator.roofline is not None:
        parts.append(f"{operator.roofline:.0%} of the roofline")
    if operator.nodes:
        parts.append(f"nodes {_some(operator.nodes)}")
    return ", ".join(parts)


def _some(names: Sequence[str], most: int = 6) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _micro(seconds: float) -> str:
    return f"{seconds * 1e6:,.1f} µs"

"""A search in a notebook: a summary of the result, and the plot as a picture of its own."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from strop.errors import StropError
from strop.records import Result
from strop.report import glance, pareto, templates, trials, wording
from strop.report.numbers import Score
from strop.report.pareto import Plot

_WIDTH, _LINE, _MARGIN = 680.0, 20.0, 12.0
_LETTER = 6.6


@dataclass(frozen=True)
class Picture:
    """An SVG that notebooks show when it is the last value of a cell.

    Attributes
    ----------
    svg
        The picture as text; it carries its style along and refers to nothing outside.
    title
        What it shows.
    """

    svg: str
    title: str

    def save(self, path: str | Path) -> Path:
        """Write the picture to a file; the path."""
        target = Path(path)
        target.write_text(self.svg, encoding="utf-8")
        return target

    def __repr__(self) -> str:
        return f"<Picture: {self.title}; .save('plot.svg') writes it>"

    def _repr_svg_(self) -> str:
        return self.svg


def plot(result: Result) -> Picture:
    """Speed against quality lost, of everything that was tried.

    Raises
    ------
    StropError
        When no trial came far enough to be drawn.
    """
    shown = trials.shown(result)
    found = pareto.plot(result, shown, Score.of(result))
    if found is None:
        raise StropError("there is nothing to draw: no trial was scored")
    return Picture(
        templates.printable(_alone(found)),
        f"speed against quality lost, {len(shown)} trials",
    )


def summary(result: Result, *, report: str) -> str:
    """What was found, as an HTML fragment that needs no style and no script around it.

    Parameters
    ----------
    report
        Where the whole report is, as text.
    """
    score = Score.of(result)
    try:
        picture = base64.b64encode(plot(result).svg.encode("utf-8", "replace")).decode()
    except StropError:
        picture = ""
    text = templates.get("notebook.html").render(
        headline=wording.headline(result, score),
        lede=wording.lede(result, score),
        near_miss=wording.near_miss(result, score),
        glance=glance.glance(result, score),
        warnings=result.warnings,
        picture=picture,
        report=report,
    )
    return templates.printable(text)


def _alone(found: Plot) -> str:
    """The plot below its legend, with the style inside: a valid XML document."""
    legend = [
        *(
            (name, Markup('<circle class="swatch {}" cx="5" cy="-4" r="5"/>').format(class_))
            for name, class_ in found.engines
        ),
        *(
            (name, Markup('<svg x="-3" y="-14" width="20" height="20">{}</svg>').format(sample))
            for name, sample in found.shapes
        ),
    ]
    parts = []
    x, y = _MARGIN, _MARGIN + _LINE / 2
    for name, mark in legend:
        width = 22 + _LETTER * len(name) + 14
        if x + width > _WIDTH:
            x, y = _MARGIN, y + _LINE
        parts.append(
            Markup('<g transform="translate({} {})">{}<text x="19" y="0">{}</text></g>').format(
                round(x), round(y), mark, name
            )
        )
        x += width
    top = y + _LINE / 2
    height = top + 430
    note = Markup('<text x="{}" y="{}" text-anchor="end">faster than {}</text>').format(
        round(_WIDTH - _MARGIN), round(height + 4), found.anchor
    )
    style = Markup("<style>{}</style>").format(Markup(templates.figure_style() + _STYLE))
    return str(
        Markup(
            '<svg xmlns="http://www.w3.org/2000/svg" width="{0}" height="{1}" '
            'viewBox="0 0 {0} {1}">{2}<rect class="paper" width="100%" height="100%"/>'
            '{3}<svg y="{4}" width="{0}" height="430">{5}</svg>{6}</svg>'
        ).format(
            round(_WIDTH),
            round(height + 14),
            style,
            Markup("").join(parts),
            round(top),
            found.picture,
            note,
        )
    )


_STYLE = """
.paper { fill: var(--paper); }
.swatch { fill: var(--c); }
.sample { --c: var(--soft); }
"""

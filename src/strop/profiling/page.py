"""A profile as one HTML page that needs nothing from outside and runs no script."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

from markupsafe import Markup

from strop.profiling import figures
from strop.profiling.record import EngineProfile, Operator, Profile
from strop.report import templates
from strop.report.templates import HERE as REPORT

_HERE = Path(__file__).parent
_MOST = 40
"""Operators in the table, the costliest first."""


def write_page(profile: Profile, path: Path) -> Path:
    """Write the page; the path.

    Raises
    ------
    OSError
        When the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render(profile), encoding="utf-8")
    return path


def render(profile: Profile) -> str:
    """The page as text."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    style = (
        templates.figure_style()
        + (REPORT / "report.css").read_text()
        + (_HERE / "profile.css").read_text()
    )
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = environment.get_template("profile.html").render(
        profile=profile,
        style=Markup(style),
        policy=f"default-src 'none'; style-src 'sha256-{digest}'",
        parts=[
            (one, figures.icicle(one), figures.memory(one), _costliest(one))
            for one in profile.engines
        ],
        micro=lambda seconds: f"{seconds * 1e6:,.1f}",
        most=_MOST,
    )
    return templates.printable(text)


def _costliest(profile: EngineProfile) -> list[Operator]:
    return sorted(profile.operators, key=lambda operator: -operator.seconds)[:_MOST]

"""A profile of what a search delivered, kept beside its report and shown in it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from strop import report
from strop.errors import InputError, StropError
from strop.profiling import figures
from strop.profiling.record import EngineProfile, Profile
from strop.records import Result
from strop.report import Section

_HERE = Path(__file__).parent
KEPT = "profile.json"
"""Name of the profile in an output folder; the next search into the folder takes it away."""


@dataclass(frozen=True)
class OutputFolder:
    """What a finished search wrote, and the bundle in it."""

    path: Path
    bundle: Path


def output_folder(given: Any) -> OutputFolder | None:
    """The output folder of a finished search that `given` names; None where it is none.

    Raises
    ------
    InputError
        When its search delivered no bundle.
    """
    if not isinstance(given, str | Path) or not (Path(given) / "result.json").is_file():
        return None
    path = Path(given)
    bundle = path / Result.read(path / "result.json").bundle
    if not bundle.is_dir():
        raise InputError(
            f"the search in '{given}' delivered no bundle", hint="profile the model itself"
        )
    return OutputFolder(path, bundle)


def keep(profile: Profile, folder: Path) -> Path:
    """Write the profile beside the report of a search; its path.

    Raises
    ------
    InputError
        When the folder cannot be written to.
    """
    path = folder / KEPT
    try:
        path.write_text(profile.to_json(indent=1), encoding="utf-8")
    except OSError as error:
        raise InputError(f"'{path}' cannot be written: {error.strerror or error}") from error
    return path


def write_report(folder: Path) -> Path:
    """Write a folder's report, with its profile where it keeps one; the report's path.

    Raises
    ------
    InputError
        When the folder holds no result, or cannot be written to.
    """
    return report.write(folder, sections=tuple(_sections(folder)))


def _sections(folder: Path) -> Iterator[Section]:
    path = folder / KEPT
    if not path.is_file():
        return
    try:
        profile = Profile.read(path)
    except (StropError, ValueError) as error:
        reason = error.message if isinstance(error, StropError) else str(error)
        body = Markup("<p>{} cannot be read: {}.</p>").format(KEPT, reason)
        yield Section("profile", "Where a call goes", body)
        return
    yield Section("profile", "Where a call goes", _body(profile), _style())


def _body(profile: Profile) -> Markup:
    """The original and the delivered on one scale, where both were profiled, and the advice."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    shown: list[tuple[str, EngineProfile]] = [("delivered", one) for one in profile.engines]
    if profile.quantisation is not None:
        shown.insert(0, ("the original on the same engine", profile.quantisation.float_profile))
    whole = max(one.profiled_seconds for _, one in shown)
    text = environment.get_template("section.html").render(
        profile=profile,
        parts=[(name, one, figures.icicle(one, whole)) for name, one in shown],
        micro=lambda seconds: f"{seconds * 1e6:,.1f}",
    )
    return Markup(text)


def _style() -> str:
    return (_HERE / "profile.css").read_text()

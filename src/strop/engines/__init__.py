"""Engines by name: each builds a model into an artefact and loads an artefact as a session.

Importing this package loads no runtime; an engine imports its own when it builds or loads.
"""

from __future__ import annotations

import functools

from strop import plugins
from strop.engines._base import Arrays, Engine, Session
from strop.engines.operators import OperatorTime, OperatorTimes
from strop.engines.validation import validate
from strop.errors import InputError, StropError
from strop.models.telemetry import quiet_telemetry
from strop.records import SessionSpec

__all__ = [
    "Arrays",
    "Engine",
    "OperatorTime",
    "OperatorTimes",
    "Session",
    "get",
    "names",
    "open_session",
    "quiet_telemetry",
    "validate",
]


def names() -> tuple[str, ...]:
    """The engines that are registered, sorted; whether one can run here says `available`.

    Examples
    --------
    >>> "onnxruntime" in names()
    True
    """
    return plugins.names("engines")


@functools.cache
def get(name: str) -> Engine:
    """The engine registered as `name`; always the same instance.

    Raises
    ------
    InputError
        When there is none of that name.
    StropError
        When the plug-in of that name cannot be made, or is no engine.
    """
    made = plugins.find("engines", name)
    try:
        engine = made()
    except Exception as error:  # a plug-in's own
        raise StropError(f"the engine '{name}' cannot be made: {error}") from error
    if not isinstance(engine, Engine):
        kind = type(engine).__name__
        raise StropError(f"the engine '{name}' is a {kind}, which is no strop.engines.Engine")
    return engine


def open_session(spec: SessionSpec, *, payload: bytes | None = None) -> Session:
    """Load a built artefact; imports the runtime of that engine and nothing else.

    Parameters
    ----------
    payload
        A live module pickled by cloudpickle, for engines that run modules made in Python
        (`ModuleSource.payload`); the others ignore it.

    Raises
    ------
    InputError
        When the engine is unknown, its runtime is not installed or the artefact is missing.
    NotApplicable
        When the runtime refuses the artefact.
    """
    from pathlib import Path

    engine = get(spec.engine)
    installed = engine.available()
    if not installed:
        raise InputError(f"the engine '{spec.engine}' cannot run: {installed.reason}")
    artifact = Path(spec.artifact)
    if not artifact.exists():
        raise InputError(f"the {spec.engine} artefact '{artifact}' does not exist")
    if payload is not None:
        engine = engine.with_payload(payload)
    return engine.load(artifact, spec.signature, spec.options, spec.placement)

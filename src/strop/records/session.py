"""All that a fresh process needs to load a built artefact."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from strop.records._base import Record
from strop.records.signature import Signature


class Placement(Record):
    """Where a session runs.

    Attributes
    ----------
    device
        ``cpu``, or what the engine calls its device.
    threads
        Intra-op threads of one inference.
    streams
        Inferences that run at once inside the session.
    """

    device: str = "cpu"
    threads: int = 1
    streams: int = 1


class SessionSpec(Record):
    """What `Engine.load` is called with, as plain data that crosses processes.

    Attributes
    ----------
    artifact
        The path of what `Engine.build` wrote.
    """

    engine: str
    artifact: str
    signature: Signature
    options: dict[str, Any] = Field(default_factory=dict)
    placement: Placement = Placement()

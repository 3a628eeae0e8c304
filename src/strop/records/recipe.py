"""A start, technique steps and one deployment: all that it takes to build a candidate again."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from strop.records._base import Record


class Step(Record):
    """One technique applied with given parameters."""

    technique: str
    version: int = 1
    params: dict[str, Any] = Field(default_factory=dict)

    def __str__(self) -> str:
        return _called(self.technique, self.params)


class Deployment(Record):
    """Where and how the built model runs.

    Attributes
    ----------
    engine
        The engine's name, as its entry point spells it.
    options
        Engine options (precision hint, graph level …), as `Engine.space` names them.
    device
        ``cpu``, or what the engine calls its device.
    threads
        Intra-op threads of one inference; None means all cores granted.
    streams
        Inferences that run at once inside one session.
    batch
        The batch size that timings use.
    """

    engine: str
    options: dict[str, Any] = Field(default_factory=dict)
    device: str = "cpu"
    threads: int | None = None
    streams: int = 1
    batch: int = 1

    def __str__(self) -> str:
        placed = {
            "threads": self.threads or 0,
            "streams": self.streams if self.streams > 1 else 0,
            "batch": self.batch if self.batch > 1 else 0,
        }
        told = {name: value for name, value in placed.items() if value}
        return _called(self.engine, {**self.options, **told})


class Recipe(Record):
    """A candidate as plain data; equal recipes have equal ids.

    Attributes
    ----------
    start
        Name of the given network that it starts from, where several were given; empty for the
        first one, the original.

    Examples
    --------
    >>> recipe = Recipe(steps=(Step(technique="fp16"),), deploy=Deployment(engine="onnxruntime"))
    >>> str(recipe)
    'fp16 → onnxruntime'
    >>> len(recipe.id)
    12
    """

    schema_version: int = Field(default=1, alias="schema")
    steps: tuple[Step, ...] = ()
    deploy: Deployment
    seed: int = 0
    start: str = ""

    @property
    def id(self) -> str:
        """The first 12 hexadecimal digits of the canonical JSON's sha256."""
        return self.digest[:12]

    def __str__(self) -> str:
        start = [self.start] if self.start else []
        return " → ".join([*start, *map(str, self.steps), str(self.deploy)])


def _called(name: str, values: dict[str, Any]) -> str:
    """Words speak for themselves, switches by their name when they are on, numbers with it."""
    shown = []
    for key, value in sorted(values.items()):
        if isinstance(value, bool):
            shown += [key] if value else []
        elif isinstance(value, str):
            shown.append(value)
        elif value is not None:
            shown.append(f"{key}={value}")
    return f"{name}({', '.join(shown)})" if shown else name

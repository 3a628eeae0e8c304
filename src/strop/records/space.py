"""The parameters of a technique or an engine, as a finite grid that strategies walk."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from strop.records._base import Record


class Choice(Record):
    """One parameter: its values in the order of what is tried first; the first is the default."""

    name: str
    values: tuple[Any, ...]


class Space(Record):
    """The parameters of one technique or engine.

    Examples
    --------
    >>> space = Space(choices=(Choice(name="bits", values=(8, 4)),))
    >>> space.default
    {'bits': 8}
    >>> list(space.grid())
    [{'bits': 8}, {'bits': 4}]
    """

    choices: tuple[Choice, ...] = ()

    @property
    def default(self) -> dict[str, Any]:
        """The first value of every parameter."""
        return {choice.name: choice.values[0] for choice in self.choices}

    def grid(self) -> Iterator[dict[str, Any]]:
        """Every combination, defaults first."""
        names = [choice.name for choice in self.choices]
        for values in itertools.product(*(choice.values for choice in self.choices)):
            yield dict(zip(names, values, strict=True))

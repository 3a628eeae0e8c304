"""What is chosen by name: engines, techniques, metrics, readers, strategies, exporters.

The built-in ones register through the same entry points as anybody else's, so that a plug-in is
one file and one line of packaging. The groups are ``strop.engines``, ``strop.techniques``,
``strop.metrics``, ``strop.readers`` and ``strop.strategies``.
"""

from __future__ import annotations

import functools
from typing import Any

from strop.errors import InputError, StropError


@functools.cache
def names(group: str) -> tuple[str, ...]:
    """The names registered under ``strop.<group>``, sorted."""
    return tuple(sorted(_entry_points(group)))


@functools.cache
def find(group: str, name: str) -> Any:
    """The object registered as `name` under ``strop.<group>``.

    Raises
    ------
    InputError
        When nothing of that name is registered.
    StropError
        When the plug-in fails to import: the text says which package it comes from.
    """
    points = _entry_points(group)
    if name not in points:
        known = ", ".join(sorted(points)) or "none"
        raise InputError(f"there is no {group[:-1]} called '{name}'", hint=f"known: {known}")
    point = points[name]
    try:
        return point.load()
    except Exception as error:
        package = point.dist.name if point.dist else point.value
        raise StropError(
            f"the {group[:-1]} '{name}' of {package} fails to load: {error}"
        ) from error


@functools.cache
def _entry_points(group: str) -> dict[str, Any]:
    from importlib.metadata import entry_points

    return {point.name: point for point in entry_points(group=f"strop.{group}")}

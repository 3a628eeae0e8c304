"""Ways to make a model cheaper: one file a technique, chosen by name."""

from __future__ import annotations

from strop import plugins
from strop.techniques._base import Context, Technique

__all__ = ["Context", "Technique", "get", "names"]


def names() -> tuple[str, ...]:
    """The techniques that are installed, sorted."""
    return plugins.names("techniques")


def get(name: str) -> Technique:
    """The technique registered as `name`.

    Raises
    ------
    InputError
        When there is none of that name; the text lists those there are.
    """
    technique = plugins.find("techniques", name)()
    assert isinstance(technique, Technique)
    return technique

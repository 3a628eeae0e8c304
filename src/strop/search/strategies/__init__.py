"""What to try next: one file a strategy, chosen by name."""

from __future__ import annotations

from strop import plugins
from strop.search.strategies._base import Strategy

__all__ = ["Strategy", "get", "names"]


def names() -> tuple[str, ...]:
    """The strategies that are installed, sorted."""
    return plugins.names("strategies")


def get(name: str) -> Strategy:
    """The strategy registered as `name`; InputError when there is none of that name."""
    strategy = plugins.find("strategies", name)()
    assert isinstance(strategy, Strategy)
    return strategy

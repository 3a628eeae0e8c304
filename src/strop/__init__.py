"""strop: makes trained models fast and small, and proves that they stayed good.

>>> import strop
>>> outcome = strop.optimize("model.onnx", "examples.npz", within="1%")  # doctest: +SKIP
>>> outcome.result.claim  # doctest: +SKIP
>>> model = strop.load("out/bundle")  # doctest: +SKIP
>>> model(image=batch)["logits"]  # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = ["Outcome", "__version__", "compare", "inspect", "load", "optimize", "verify"]

if TYPE_CHECKING:
    from strop.api import Outcome, compare, inspect, load, optimize, verify


def __getattr__(name: str) -> Any:
    """Public names are loaded when first used, so that importing strop stays cheap."""
    if name in __all__:
        from strop import api

        return getattr(api, name)
    raise AttributeError(f"module 'strop' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)

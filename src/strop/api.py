"""The public functions: what `import strop` offers, and what the command line calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from strop.bundle import load, verify
from strop.comparison import compare
from strop.inspection import inspect
from strop.search import Outcome, Request
from strop.search import optimize as _search
from strop.search.optimize import Listener

__all__ = ["compare", "inspect", "load", "optimize", "run", "verify"]


def optimize(
    model: Any, data: Any, *, within: str | float, output: str | Path = "out", **options: Any
) -> Outcome:
    """Find the fastest version of `model` that is proven to stay within a tolerance.

    Parameters
    ----------
    model
        Path of an ONNX file, ``"file.py:callable"`` with ``trust=True``, or an `nn.Module`.
    data
        Path of the examples, or a mapping of arrays by input name, with ``target`` if there is
        one. See docs/guide-data.md.
    within
        The tolerance in metric units: ``0.01``, ``"1%"``, or ``"1%rel"``.
    output
        Folder for the bundle, the report and the journal.
    **options
        The other fields of :class:`strop.search.Request` (``metric``, ``goal``, ``budget``,
        ``batch``, ``threads``, ``prove``, ``confidence``, ``seed`` …).

    Returns
    -------
    Outcome
        ``.result`` is the plain-data result, ``.best`` the delivered candidate, ``.pareto`` the
        trials on the front, ``.bundle`` the folder to load.

    Raises
    ------
    InputError
        When something that was given cannot be used.

    Examples
    --------
    >>> outcome = optimize("model.onnx", "data.npz", within="1%")  # doctest: +SKIP
    >>> outcome.result.status  # doctest: +SKIP
    'improved'
    """
    return run(Request(model=model, data=data, within=within, output=output, **options))


def run(
    request: Request,
    *,
    listeners: Sequence[Listener] = (),
    say: Callable[[str], None] = lambda line: None,
) -> Outcome:
    """Search as `request` asks and write the report beside the bundle."""
    from strop import report

    outcome = _search(request, listeners=listeners, say=say)
    report.write(outcome.folder)
    return outcome

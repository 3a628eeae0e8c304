"""The public functions: what `import strop` offers, and what the command line calls."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from strop.bundle import load, verify
from strop.comparison import compare
from strop.inspection import inspect
from strop.search import Outcome as _Outcome
from strop.search import Request
from strop.search import optimize as _search
from strop.search.optimize import Listener

if TYPE_CHECKING:
    from strop.report import Picture

__all__ = ["Outcome", "compare", "inspect", "load", "optimize", "run", "verify"]


class Outcome(_Outcome):
    """What a search leaves behind, as notebooks show it.

    ``Outcome.read("out")`` opens a finished search again.
    """

    def plot(self) -> Picture:
        """Speed against quality lost, of everything that was tried: an SVG picture.

        Examples
        --------
        >>> outcome.plot().save("plot.svg")  # doctest: +SKIP
        """
        from strop import report

        return report.plot(self.result)

    def _repr_html_(self) -> str:
        from strop import report

        return report.summary(self.result, report=str(self.folder / self.result.report))


def optimize(
    model: Any, data: Any, *, within: str | float, output: str | Path = "out", **options: Any
) -> Outcome:
    """Find the fastest version of `model` that is proven to stay within a tolerance.

    Parameters
    ----------
    model
        Path of an ONNX file, ``"file.py:callable"`` with ``trust=True``, or an `nn.Module`; or a
        list of them for one task, of which the first is the original.
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
        trials on the front, ``.plot()`` a picture and ``.to_dataframe()`` a table of all trials,
        ``.bundle`` the folder to load.

    Raises
    ------
    InputError
        When something that was given cannot be used.
    TypeError
        When there is no option of a name.

    Examples
    --------
    >>> outcome = optimize("model.onnx", "data.npz", within="1%")  # doctest: +SKIP
    >>> outcome.result.status  # doctest: +SKIP
    'improved'
    """
    known = [field.name for field in fields(Request)]
    for name in options:
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            meant = f"did you mean '{close[0]}'?" if close else f"it takes {', '.join(known)}"
            raise TypeError(f"strop.optimize() has no option '{name}'; {meant}")
    return run(Request(model=model, data=data, within=within, output=output, **options))


def run(
    request: Request,
    *,
    listeners: Sequence[Listener] = (),
    say: Callable[[str], None] = lambda line: None,
) -> Outcome:
    """Search as `request` asks and write the report beside the bundle."""
    from strop import report

    found = _search(request, listeners=listeners, say=say)
    report.write(found.folder)
    return Outcome(found.result, found.folder)

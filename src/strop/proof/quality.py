"""Proof that the quality drop stays within a tolerance: one method for each kind of score."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from strop.proof.betting import (
    DEFAULT_SECOND_MOMENT,
    betting_p,
    betting_upper,
    salted_order,
)
from strop.proof.binomial import agreement_p, agreement_upper, check_alpha
from strop.proof.trinomial import gamma_for, trinomial_p, trinomial_upper

Kind = Literal["binary", "agreement", "bounded"]
Method = Literal["exact trinomial", "Clopper-Pearson", "betting", "clustered betting"]

_REFERENCES: dict[Method, tuple[str, ...]] = {
    "exact trinomial": (
        "Tango, Statistics in Medicine 17, 1998, 891-908",
        "Hsueh, Liu and Chen, Biometrics 57, 2001, 478-483",
        "Berger and Boos, JASA 89, 1994, 1012-1016",
    ),
    "Clopper-Pearson": ("Clopper and Pearson, Biometrika 26, 1934, 404-413",),
    "betting": (
        "Waudby-Smith and Ramdas, JRSS-B 86, 2024, 1-27",
        "Voráček and Orabona, NeurIPS 2025, arXiv 2505.22422",
    ),
    "clustered betting": (
        "Waudby-Smith and Ramdas, JRSS-B 86, 2024, 1-27",
        "Voráček and Orabona, NeurIPS 2025, arXiv 2505.22422",
    ),
}


# trinomial_upper halves down to 1e-6, always upwards; the other bounds invert their test exactly.
_UPPER_PRECISION: dict[Method, float] = {
    "exact trinomial": 2e-6,
    "Clopper-Pearson": 0.0,
    "betting": 0.0,
    "clustered betting": 0.0,
}


@dataclass(frozen=True)
class QualityTest:
    """What one test of ``H0: E[d] >= tolerance`` found.

    ``p`` its p-value; ``upper`` the bound on the mean drop at confidence ``1 - alpha``; ``mean``
    the drop seen; ``n`` examples in ``groups`` independent groups; ``proven`` whether both the
    p-value and the bound say so.
    """

    kind: Kind
    method: Method
    tolerance: float
    alpha: float
    p: float
    upper: float
    mean: float
    n: int
    groups: int
    proven: bool
    references: tuple[str, ...]


def prove(
    d: ArrayLike,
    tolerance: float,
    alpha: float,
    *,
    kind: Kind,
    groups: ArrayLike | None = None,
    v_search: float | None = None,
    salt: str = "",
) -> QualityTest:
    """Test whether the mean drop lies below the tolerance, and bound it.

    Parameters: ``d`` [n], score of the reference less score of the candidate on each example of
    untouched data: -1, 0 or 1 for ``binary`` scores; for ``agreement`` 1 where the decision
    changed, else 0; at most 1 for ``bounded`` scores in [0, 1]. ``groups`` [n] names what is
    independent of the rest (default: each example). ``v_search``: :func:`second_moment` of the
    drops on *search*, with the same grouping, for betting; ``salt`` fixes the order of bets.

    The method follows from the kind and from whether any group has two examples, never from the
    scores: choosing the better of two results would void the error rate. Raises ``ValueError``
    on scores that do not fit the kind.

    >>> prove(np.zeros(400), 0.01, 0.05, kind="binary").proven
    True
    >>> prove(np.zeros(200), 0.01, 0.05, kind="binary").proven
    False
    """
    check_alpha(alpha)
    drops = np.asarray(d, dtype=np.float64)
    if drops.ndim != 1 or not len(drops):
        raise ValueError(f"d has shape {drops.shape}; expected one drop an example, at least one")
    if not 0 < tolerance < 1:
        raise ValueError(f"tolerance is {tolerance}; expected a share between 0 and 1")
    _check_scores(drops, kind)

    units = _group_count(drops, groups)
    method = method_for(kind, clustered=units < len(drops))
    n = len(drops)
    if method == "exact trinomial":
        b, c = int(np.sum(drops == 1)), int(np.sum(drops == -1))
        p = trinomial_p(b, c, n, tolerance, gamma=gamma_for(alpha))
        upper = trinomial_upper(b, c, n, alpha)
    elif method == "Clopper-Pearson":
        changed = int(np.sum(drops == 1))
        p, upper = agreement_p(changed, n, tolerance), agreement_upper(changed, n, alpha)
    else:
        names = np.arange(n) if groups is None else np.asarray(groups)
        order = salted_order(names.tolist(), salt)
        # Rows that stand alone need no sums; their order alone matters.
        named = names[order] if method == "clustered betting" else None
        v = DEFAULT_SECOND_MOMENT if v_search is None else v_search
        ordered = drops[order]
        p = betting_p(ordered, tolerance, v_search=v, alpha=alpha, groups=named)
        upper = betting_upper(ordered, alpha, v_search=v, groups=named, tolerance=tolerance)
    # Rejection need not be monotone in the drop: claim only where test and bound agree.
    proven = p <= alpha and upper <= tolerance * (1 + 1e-9) + _UPPER_PRECISION[method]
    return QualityTest(
        kind=kind,
        method=method,
        tolerance=tolerance,
        alpha=alpha,
        p=p,
        upper=min(upper, tolerance) if proven else upper,
        mean=float(drops.mean()),
        n=n,
        groups=units,
        proven=proven,
        references=_REFERENCES[method],
    )


def method_for(kind: Kind, *, clustered: bool) -> Method:
    """The test that scores of a kind get, known before any score is seen.

    >>> method_for("binary", clustered=False), method_for("binary", clustered=True)
    ('exact trinomial', 'clustered betting')
    """
    if kind not in get_args(Kind):
        raise ValueError(
            f"kind is {kind!r}; expected one of {', '.join(get_args(Kind))}"
            " (set-level metrics: see bca_upper)"
        )
    if clustered:
        return "clustered betting"
    methods: dict[Kind, Method] = {
        "binary": "exact trinomial",
        "agreement": "Clopper-Pearson",
        "bounded": "betting",
    }
    return methods[kind]


def _check_scores(drops: NDArray[np.float64], kind: Kind) -> None:
    allowed = {"binary": (-1.0, 0.0, 1.0), "agreement": (0.0, 1.0)}.get(kind)
    if allowed is not None and not np.isin(drops, allowed).all():
        strange = drops[~np.isin(drops, allowed)][0]
        raise ValueError(
            f"a drop is {strange:g}, and kind {kind!r} takes {allowed};"
            " use kind 'bounded' for real scores"
        )
    if not np.isfinite(drops).all():
        raise ValueError("d holds values that are not finite; drop or repair those examples")
    if np.abs(drops).max() > 1 + 1e-9:
        raise ValueError(
            f"a drop is {drops[np.abs(drops).argmax()]:g}; expected scores in [0, 1],"
            " whose drops lie in [-1, 1]: clip or rescale the scores"
        )


def _group_count(drops: NDArray[np.float64], groups: ArrayLike | None) -> int:
    if groups is None:
        return len(drops)
    names = np.asarray(groups)
    if names.shape != drops.shape:
        raise ValueError(f"groups has shape {names.shape}; expected one an example, {drops.shape}")
    return len(np.unique(names))

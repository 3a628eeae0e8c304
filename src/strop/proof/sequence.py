"""Several candidates, several runs: what keeps the chance of any false proof at alpha."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from strop.proof.binomial import check_alpha


class Tested(Protocol):
    """A finished test, such as :class:`strop.proof.QualityTest`, tested at alpha."""

    @property
    def proven(self) -> bool:
        """Whether the test rejected its hypothesis."""


def fixed_sequence(tests: Sequence[float | Tested], alpha: float) -> list[bool]:
    """Which of the candidates, in this order, are proven: all before the first failure.

    ``tests`` are p-values, or finished tests at ``alpha``; the order is fixed before any of them
    is seen, the surest first. Each is tested at the full alpha, yet the chance of even one false
    proof is at most alpha: the first true hypothesis in the order must be rejected for that.
    For any dependence between the tests. Fixed-sequence testing (Maurer, Hothorn and Lehmacher,
    1995) along a Pareto front: Laufer-Goldshtein et al., "Efficiently Controlling Multiple Risks
    with Pareto Testing", ICLR 2023; Angelopoulos et al., "Learn then Test", arXiv 2110.01052.

    >>> fixed_sequence([0.01, 0.04, 0.2, 0.001], alpha=0.05)
    [True, True, False, False]
    """
    check_alpha(alpha)
    proven: list[bool] = []
    for test in tests:
        passed = test <= alpha if isinstance(test, (int, float)) else test.proven
        proven.append(bool(passed) and all(proven))
    return proven


def ledger_alpha(alpha: float, run: int) -> float:
    """The level for the ``run``-th use (from 1) of one proof set: ``alpha / (run * (run + 1))``.

    These levels sum to alpha over all runs without end, so that the chance of any false proof
    on the set stays at most alpha (Bonferroni), however later runs depend on earlier ones'
    verdicts as long as their candidates come from other data.

    >>> ledger_alpha(0.05, 1), round(sum(ledger_alpha(0.05, k) for k in range(1, 1000)), 4)
    (0.025, 0.05)
    """
    check_alpha(alpha)
    if run < 1:
        raise ValueError(f"run is {run}; expected 1 for the first use of the proof set")
    return alpha / (run * (run + 1))

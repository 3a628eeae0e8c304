from __future__ import annotations

import numpy as np
import pytest

from strop.proof import fixed_sequence, ledger_alpha, prove


def test_stops_at_the_first_failure():
    assert fixed_sequence([0.01, 0.05, 0.051, 0.0], 0.05) == [True, True, False, False]
    assert fixed_sequence([0.2, 0.0], 0.05) == [False, False]
    assert fixed_sequence([], 0.05) == []


def test_takes_finished_tests():
    proven = prove(np.zeros(400), 0.01, 0.05, kind="binary")
    failed = prove(np.zeros(100), 0.01, 0.05, kind="binary")
    assert fixed_sequence([proven, failed, proven], 0.05) == [True, False, False]


def test_ledger_spends_alpha_and_no_more():
    spent = np.cumsum([ledger_alpha(0.05, run) for run in range(1, 5000)])
    assert np.all(spent < 0.05)
    assert spent[-1] == pytest.approx(0.05, rel=1e-3)


def test_arguments_are_checked():
    with pytest.raises(ValueError, match="run is 0"):
        ledger_alpha(0.05, 0)
    with pytest.raises(ValueError, match="alpha is 5"):
        fixed_sequence([0.1], 5)

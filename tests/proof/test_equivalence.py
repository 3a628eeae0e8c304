from __future__ import annotations

import numpy as np
import pytest

from strop.proof import equivalence


def test_error_is_relative_to_each_examples_largest_entry():
    reference = np.array([[1000.0, 0.0], [1.0, 0.5]], dtype=np.float32)
    candidate = reference + np.array([[0.0, 0.5], [0.0, 0.0]], dtype=np.float32)
    found = equivalence(reference, candidate)
    assert found.max_relative_error == pytest.approx(5e-4)
    assert found.holds
    assert not equivalence(reference, reference * 1.002).holds


def test_a_changed_decision_breaks_equivalence_however_small_the_error():
    reference = np.array([[1.0, 1.00001, 0.0], [0.0, 1.0, 0.0]])
    candidate = np.array([[1.00001, 1.0, 0.0], [0.0, 1.0, 0.0]])
    found = equivalence(reference, candidate, decides=True)
    assert found.max_relative_error < 1e-4
    assert (found.decisions_changed, found.holds) == (1, False)


def test_one_bad_example_among_many_is_enough():
    reference = np.random.default_rng(0).normal(size=(1000, 4))
    candidate = reference.copy()
    candidate[777] *= 1.01
    assert not equivalence(reference, candidate).holds


def test_integers_and_special_values_match_exactly():
    assert equivalence([[1, 2]], [[1, 2]]).holds
    assert not equivalence([[1, 2]], [[1, 3]]).holds
    assert equivalence([[np.nan, -np.inf, 1.0]], [[np.nan, -np.inf, 1.0]]).holds
    assert not equivalence([[np.nan, 1.0]], [[0.0, 1.0]]).holds
    assert not equivalence([[np.inf, 1.0]], [[-np.inf, 1.0]]).holds


def test_zeros():
    assert equivalence(np.zeros((3, 2)), np.zeros((3, 2))).holds
    assert not equivalence(np.zeros((3, 2)), np.full((3, 2), 1e-9)).holds


def test_shapes_are_checked():
    with pytest.raises(ValueError, match="expected the same"):
        equivalence(np.zeros((3, 2)), np.zeros((3, 1)))

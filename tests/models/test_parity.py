from __future__ import annotations

import numpy as np
import pytest

from strop.models import parity, relative_error, relative_errors


def test_the_error_is_the_norm_of_the_difference_over_the_references_norm():
    reference = np.array([[3.0, 4.0], [0.0, 2.0]], np.float32)
    candidate = np.array([[3.0, 4.5], [0.0, 2.0]], np.float32)
    np.testing.assert_allclose(relative_errors(reference, candidate), [0.1, 0.0], atol=1e-9)


def test_rows_of_higher_rank_count_as_one_example():
    reference = np.ones((3, 2, 5))
    candidate = reference.copy()
    candidate[1] *= 2
    np.testing.assert_allclose(relative_errors(reference, candidate), [0, 1, 0], atol=1e-9)


def test_integers_are_equal_or_not():
    errors = relative_errors(np.array([[1, 2], [3, 4]]), np.array([[1, 2], [3, 5]]))
    assert errors.tolist() == [0.0, np.inf]


def test_nan_agrees_with_nan_only():
    reference = np.array([[np.nan, 1.0], [np.inf, 1.0], [1.0, 1.0]])
    candidate = np.array([[np.nan, 1.0], [-np.inf, 1.0], [np.nan, 1.0]])
    assert relative_errors(reference, candidate).tolist() == [0.0, np.inf, np.inf]


def test_half_precision_does_not_overflow():
    big = np.full((1, 100), 60000, np.float16)
    assert relative_error(big, big) == 0.0


def test_strings_compare():
    words = np.array(["a", "b"], dtype=object)
    assert relative_errors(words, np.array(["a", "c"], dtype=object)).tolist() == [0.0, np.inf]


def test_shapes_must_match():
    assert relative_error(np.ones((2, 3)), np.ones((3, 2))) == np.inf
    with pytest.raises(ValueError, match="shapes differ"):
        relative_errors(np.ones(2), np.ones(3))


def test_the_worst_output_is_named_and_a_missing_one_fails():
    reference = {"a": np.ones((2, 2)), "b": np.ones((2, 2))}
    result = parity(reference, {"a": np.ones((2, 2)), "b": 1.01 * np.ones((2, 2))})
    assert (result.ok, result.worst_output) == (False, "b")
    assert result.max_relative_error == pytest.approx(0.01)
    assert "'b'" in str(result)
    missing = parity(reference, {"a": np.ones((2, 2))})
    assert (missing.ok, missing.worst_output) == (False, "b")


def test_the_bound_is_inclusive_of_what_lies_below():
    reference = {"y": np.ones((1, 4))}
    assert parity(reference, {"y": 1.0009 * np.ones((1, 4))}).ok
    assert not parity(reference, {"y": 1.0011 * np.ones((1, 4))}).ok
    assert parity(reference, {"y": 1.05 * np.ones((1, 4))}, bound=0.1).ok

"""The built-in metrics against the same thing computed the long way."""

from __future__ import annotations

import numpy as np
import pytest

from strop import metrics
from strop.errors import MetricError
from strop.metrics import decisions_changed
from strop.metrics.accuracy import Accuracy
from strop.metrics.agreement import Agreement
from strop.metrics.closeness import Closeness
from strop.metrics.cosine import Cosine


@pytest.fixture
def rng():
    return np.random.default_rng(0)


class TestAccuracy:
    def test_it_counts_what_a_loop_counts(self, rng):
        outputs, target = rng.standard_normal((50, 7)).astype(np.float32), rng.integers(0, 7, 50)
        scores = Accuracy("y").scores({"y": outputs}, target, {})
        expected = [
            float(max(range(7), key=row.__getitem__) == t)
            for row, t in zip(outputs, target, strict=True)
        ]
        assert scores.dtype == np.float64
        assert scores.tolist() == expected
        assert Accuracy("y").value({"y": outputs}, target, {}) == pytest.approx(np.mean(expected))

    def test_nan_is_never_right(self):
        outputs = {"y": np.array([[np.nan, 0.1], [0.2, np.nan], [0.9, 0.1]])}
        assert Accuracy("y").scores(outputs, np.zeros(3, int), {}).tolist() == [0, 0, 1]

    def test_tokens_are_averaged_without_the_padding(self, rng):
        outputs = rng.standard_normal((4, 5, 3))
        target = rng.integers(0, 3, (4, 5))
        target[1, 3:] = -100
        target[2] = -100
        scores = Accuracy("y", "bounded").scores({"y": outputs}, target, {})
        for row in (0, 1, 3):
            kept = [t for t in range(5) if target[row, t] >= 0]
            hits = [outputs[row, t].argmax() == target[row, t] for t in kept]
            assert scores[row] == pytest.approx(np.mean(hits))
        assert scores[2] == 1

    @pytest.mark.parametrize(
        ("outputs", "target", "message"),
        [
            (np.zeros((3, 4)), [0, 1, 4], "a target is class 4, and output 'y' scores .* 0 to 3"),
            (np.zeros((3, 4)), [0, 1, -1], "a target is class -1"),
            (np.zeros((3, 4)), [0, 1], r"shape \[3, 4\], targets \[2\]; accuracy takes"),
        ],
    )
    def test_targets_that_do_not_fit(self, outputs, target, message):
        with pytest.raises(MetricError, match=message):
            Accuracy("y").scores({"y": outputs}, np.array(target), {})


class TestAgreement:
    def test_it_counts_what_a_loop_counts(self, rng):
        before, after = rng.standard_normal((2, 60, 4))
        scores = Agreement("y").scores({"y": after}, None, {"y": before})
        expected = [float(np.argmax(a) == np.argmax(b)) for a, b in zip(after, before, strict=True)]
        assert scores.tolist() == expected
        assert Agreement("y").scores({"y": before}, None, {"y": before}).all()

    def test_nan_agrees_with_nan_only(self):
        before = np.array([[np.nan, 1], [0, 1], [0, np.nan]])
        after = np.array([[np.nan, 1], [np.nan, 1], [0, 1]])
        scores = Agreement("y").scores({"y": after}, None, {"y": before})
        assert scores.tolist() == [1, 0, 0]


class TestCloseness:
    def test_it_is_the_worst_relative_distance(self, rng):
        before = {"a": rng.standard_normal((20, 3, 2)), "b": rng.standard_normal((20, 5))}
        after = {n: v + 0.2 * rng.standard_normal(v.shape) for n, v in before.items()}
        after["b"][3] = 100
        scores = Closeness().scores(after, None, before)
        for row in range(20):
            distances = [
                np.sqrt(((after[n][row] - before[n][row]) ** 2).sum() / (before[n][row] ** 2).sum())
                for n in before
            ]
            assert scores[row] == pytest.approx(max(0, 1 - max(distances)), abs=1e-6)
        assert scores[3] == 0
        assert (Closeness().scores(before, None, before) == 1).all()

    def test_integers_are_equal_or_not(self):
        before, after = {"y": np.array([[1, 2], [3, 4]])}, {"y": np.array([[1, 2], [3, 5]])}
        assert Closeness().scores(after, None, before).tolist() == [1, 0]

    def test_another_shape_is_told(self):
        with pytest.raises(MetricError, match=r"'y' has the shape \[2, 4\], the original's \[2, 3"):
            Closeness().scores({"y": np.zeros((2, 4))}, None, {"y": np.zeros((2, 3))})
        with pytest.raises(MetricError, match="'y' is missing"):
            Closeness().scores({"z": np.zeros((2, 4))}, None, {"y": np.zeros((2, 3))})


class TestCosine:
    def test_it_is_the_worst_cosine(self, rng):
        before = {"a": rng.standard_normal((20, 3, 2)), "b": rng.standard_normal((20, 5)) * 1e200}
        after = {n: v * (1 + rng.random(v.shape)) for n, v in before.items()}
        after["a"][4] *= -1
        scores = Cosine().scores(after, None, before)
        for row in range(20):
            cosines = []
            for name, scale in (("a", 1), ("b", 1e200)):
                p, q = before[name][row].ravel() / scale, after[name][row].ravel() / scale
                cosines.append(np.dot(p, q) / np.sqrt(np.dot(p, p) * np.dot(q, q)))
            assert scores[row] == pytest.approx(max(0, min(cosines)))
        assert scores[4] == 0

    def test_zeros_nan_and_integers(self):
        before = np.array([[0, 0], [0, 0], [np.nan, 1], [1, 2], [np.inf, 1]], np.float32)
        after = np.array([[0, 0], [0, 1], [np.nan, 1], [np.nan, 2], [np.inf, 1]], np.float32)
        assert Cosine().scores({"y": after}, None, {"y": before}).tolist() == [1, 0, 1, 0, 1]
        whole = {"y": np.array([[1, 2], [3, 4]])}
        assert Cosine().scores({"y": np.array([[1, 2], [3, 5]])}, None, whole).tolist() == [1, 0]


class TestDecisions:
    def test_every_kind_of_output(self):
        before = {
            "classes": np.array([[0.1, 0.9], [0.9, 0.1], [0.9, 0.1], [0.9, 0.1]]),
            "labels": np.array([1, 2, 3, 4]),
            "masks": np.zeros((4, 2, 2), bool),
            "text": np.array(["a", "b", "c", "d"], dtype=object),
            "one": np.zeros((4, 1)),
            "map": np.zeros((4, 2, 2)),
        }
        after = {name: values.copy() for name, values in before.items()}
        after["classes"][0] = [0.6, 0.4]
        after["labels"][1] = 0
        after["masks"][2, 1, 1] = True
        after["one"] += 1
        after["map"][:, 0, 0] = 9
        assert decisions_changed(before, after).tolist() == [True, True, True, False]
        after["text"][3] = "e"
        assert decisions_changed(before, after).all()

    def test_shapes_and_names_must_be_the_same(self):
        with pytest.raises(MetricError, match="output 'y' is missing, the original's"):
            decisions_changed({"y": np.zeros((2, 3))}, {"x": np.zeros((2, 3))})
        with pytest.raises(MetricError, match=r"has the shape \[2, 4\], the original's \[2, 3\]"):
            decisions_changed({"y": np.zeros((2, 3))}, {"y": np.zeros((2, 4))})


@pytest.mark.parametrize("name", ["accuracy", "agreement", "closeness", "cosine"])
def test_descriptions_cross_and_scores_stay_in_range(name, rng):
    before, after = ({"y": rng.standard_normal((30, 3)).astype(np.float32)} for _ in range(2))
    target = rng.integers(0, 3, 30)
    metric = metrics.resolve(name, outputs=before, has_target=True, targets=target)
    again = metrics.reopen(metric.describe())
    assert (again.name, again.kind) == (metric.name, metric.kind)
    scores = again.scores(after, target, before)
    np.testing.assert_array_equal(scores, metric.scores(after, target, before))
    assert scores.shape == (30,)
    assert scores.min() >= 0
    assert scores.max() <= 1


def test_targets_are_checked_without_their_outputs(rng):
    few = {"y": rng.standard_normal((4, 3))}
    Accuracy("y").check_targets(few, np.array([0, 2, 1, 2, 0]))
    with pytest.raises(MetricError, match=r"a target is class 3, .* the classes 0 to 2"):
        Accuracy("y").check_targets(few, np.array([0, 2, 3]))
    with pytest.raises(MetricError, match="a target is class -1"):
        Accuracy("y").check_targets(few, np.array([0, -1]))
    tokens = Accuracy("y", "bounded")
    tokens.check_targets({"y": rng.standard_normal((4, 6, 3))}, np.array([[0, -100], [2, 1]]))
    Closeness().check_targets(few, np.array([99]))

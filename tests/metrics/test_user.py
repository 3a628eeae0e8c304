from __future__ import annotations

import json

import numpy as np
import pytest

from strop import metrics
from strop.errors import MetricError

CODE = """
import numpy as np

def hit(outputs, target):
    return outputs["y"].argmax(axis=1) == target

def confident(outputs, target):
    return outputs["y"].max(axis=1)

def ranged(outputs, target):
    return 10 * outputs["y"].max(axis=1) - 5
ranged.range = (-5, 5)

def close(outputs, target, reference):
    return 1 - np.clip(np.abs(outputs["y"] - reference["y"]).max(axis=1), 0, 1)
close.uses_reference = True

def macro(outputs, target):
    right = outputs["y"].argmax(axis=1) == target
    return np.mean([right[target == c].mean() for c in np.unique(target)])
macro.level = "set"

def perplexity(outputs, target):
    return -3.5
perplexity.level = "set"

def perfect(outputs, target):
    return np.ones(len(outputs["y"]))

def declared(outputs, target):
    return np.ones(len(outputs["y"]))
declared.kind = "bounded"

def sometimes(outputs, target):
    return np.where(outputs["y"][:, 0] == 7, 0.5, 1.0)

def meddles(outputs, target):
    outputs.clear()
    return np.ones(len(target))

def raises(outputs, target): return outputs["logits"]
def short(outputs, target): return [1.0, 0.0]
def number(outputs, target): return 0.5
def texts(outputs, target): return ["good"] * len(target)
def none(outputs, target): return None
def ragged(outputs, target): return [[1], [1, 2]]
def beyond(outputs, target): return np.full(len(target), 3.0)
def nan(outputs, target):
    scores = np.ones(len(target)); scores[2] = np.nan; return scores
def set_none(outputs, target): return None
set_none.level = "set"
def set_nan(outputs, target): return float("nan")
set_nan.level = "set"
def bad_kind(outputs, target): return np.ones(len(target))
bad_kind.kind = "exact"
def bad_range(outputs, target): return np.ones(len(target))
bad_range.range = (1, 0)
"""


@pytest.fixture
def outputs():
    raw = np.random.default_rng(0).random((8, 3))
    return {"y": raw / raw.sum(axis=1, keepdims=True)}


TARGET = np.array([0, 1, 2, 0, 1, 2, 0, 1])


@pytest.fixture
def resolve(tmp_path, outputs):
    path = tmp_path / "score.py"
    path.write_text(CODE)

    def make(name):
        return metrics.resolve(
            f"{path}:{name}", outputs=outputs, has_target=True, targets=TARGET, trust=True
        )

    return make


def test_zeros_and_ones_are_binary(resolve, outputs):
    metric = resolve("hit")
    assert (metric.name, metric.kind, metric.uses_reference) == ("score.py:hit", "binary", False)
    expected = [float(np.argmax(y) == t) for y, t in zip(outputs["y"], TARGET, strict=True)]
    assert metric.scores(outputs, TARGET, {}).tolist() == expected


def test_anything_between_is_bounded(resolve, outputs):
    metric = resolve("confident")
    assert metric.kind == "bounded"
    np.testing.assert_array_equal(metric.scores(outputs, TARGET, {}), outputs["y"].max(axis=1))


def test_a_declared_range_is_rescaled(resolve, outputs):
    metric = resolve("ranged")
    np.testing.assert_allclose(metric.scores(outputs, TARGET, {}), outputs["y"].max(axis=1))


def test_the_reference_is_the_third_argument(resolve, outputs):
    metric = resolve("close")
    assert metric.uses_reference
    # On the original itself every score is 1; on outputs dealt to the wrong examples it is not.
    assert metric.kind == "bounded"
    moved = {"y": outputs["y"] + 0.25}
    np.testing.assert_allclose(metric.scores(moved, TARGET, outputs), 0.75)


def test_a_set_level_metric_gives_one_number(resolve, outputs):
    metric = resolve("macro")
    assert metric.kind == "set"
    right = outputs["y"].argmax(axis=1) == TARGET
    expected = np.mean([right[[0, 3, 6]].mean(), right[[1, 4, 7]].mean(), right[[2, 5]].mean()])
    assert metric.value(outputs, TARGET, {}) == pytest.approx(expected)
    assert resolve("perplexity").value(outputs, TARGET, {}) == -3.5


def test_a_declared_kind_is_believed(resolve):
    assert resolve("perfect").kind == "binary"
    assert resolve("declared").kind == "bounded"


def test_a_wrong_guess_is_found_out(resolve, outputs):
    metric = resolve("sometimes")
    assert metric.kind == "binary"
    with pytest.raises(MetricError, match=r'now 0\.5; declare sometimes\.kind = "bounded"'):
        metric.scores({"y": np.full((8, 3), 7.0)}, TARGET, {})


def test_it_cannot_change_what_others_see(resolve, outputs):
    resolve("meddles")
    assert list(outputs) == ["y"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "raises",
            r"score\.py:raises raises KeyError in line \d+: 'logits'; it is called as "
            r"raises\(outputs, target\), with outputs y: float64\[\?, 3\] and target: int64\[\?\]",
        ),
        ("short", r"score\.py:short returns the shape \[2\] for 8 examples; return one score"),
        ("number", r'the shape \[\] for 8 examples; .*declare number\.level = "set"'),
        ("texts", r"score\.py:texts returns list, not numbers"),
        ("none", r"score\.py:none returns NoneType, not numbers"),
        ("ragged", r"score\.py:ragged returns list, not numbers"),
        ("beyond", r"returns 3, outside \[0, 1\]; clip .* beyond\.range = \(low, high\)"),
        ("nan", r"returns nan for 1 of 8 examples \(first: number 2\)"),
        ("set_none", r"score\.py:set_none returns NoneType for the set, not a number"),
        ("set_nan", r"score\.py:set_nan returns nan for 8 examples"),
        ("bad_kind", r"score\.py:bad_kind\.kind is 'exact'; make it"),
        ("bad_range", r"score\.py:bad_range\.range is \(1, 0\); make it two numbers"),
    ],
)
def test_what_it_does_wrong_is_told(resolve, name, message):
    with pytest.raises(MetricError, match=message):
        resolve(name)


def test_it_crosses_by_path_and_notices_a_changed_file(resolve, outputs, tmp_path):
    description = json.loads(json.dumps(resolve("ranged").describe()))
    again = metrics.reopen(description)
    assert again.kind == "bounded"
    np.testing.assert_allclose(again.scores(outputs, TARGET, {}), outputs["y"].max(axis=1))
    (tmp_path / "score.py").write_text(CODE + "\n# another day\n")
    with pytest.raises(MetricError, match=r"'score\.py' has changed since"):
        metrics.reopen(description)

from __future__ import annotations

import numpy as np
import pytest

from strop import metrics
from strop.errors import MetricError, TrustError

CLASSES = np.random.default_rng(0).random((6, 3)).astype(np.float32)
TARGET = np.array([0, 1, 2, 0, 1, 2])


def resolve(name, outputs, targets=None, **more):
    return metrics.resolve(
        name, outputs=outputs, has_target=targets is not None, targets=targets, **more
    )


def test_classes_with_integer_targets_give_accuracy():
    metric = resolve(None, {"y": CLASSES, "features": np.zeros((6, 3, 2))}, TARGET)
    assert (metric.name, metric.kind, metric.uses_target) == ("accuracy", "binary", True)
    assert metric.describe()["output"] == "y"


def test_classes_alone_without_targets_give_agreement():
    metric = resolve(None, {"y": CLASSES})
    assert (metric.name, metric.kind, metric.uses_reference) == ("agreement", "agreement", True)


@pytest.mark.parametrize(
    "outputs",
    [
        {"y": CLASSES, "z": np.zeros((6, 2, 2))},
        {"y": CLASSES[:, :1]},
        {"y": CLASSES.astype(int)},
        {"y": CLASSES[:, 0]},
    ],
)
def test_anything_else_without_targets_gives_closeness(outputs):
    metric = resolve(None, outputs)
    assert (metric.name, metric.kind) == ("closeness", "bounded")


@pytest.mark.parametrize(
    ("outputs", "targets", "message"),
    [
        (
            {"y": CLASSES},
            TARGET.astype(float),
            r"float64\[n\] and outputs y: float32\[\?, 3\]; give",
        ),
        (
            {"y": CLASSES},
            TARGET / 2,
            r"float64\[n\] and outputs y: float32\[\?, 3\]; give --metric",
        ),
        ({"y": CLASSES}, TARGET.astype(str), r"targets text\[n\].*number the classes"),
        ({"y": CLASSES}, TARGET[:, None], r"class numbers int64\[n\]: target\[:, 0\], or"),
        ({"y": CLASSES}, np.eye(3, dtype=np.float32)[TARGET], r"target\.argmax\(axis=1\)"),
        ({"y": CLASSES}, CLASSES, r"returns a score an example"),
        ({"y": CLASSES[:, 0]}, TARGET, r"no default metric fits targets int64\[n\]"),
        ({"y": CLASSES, "z": CLASSES}, TARGET, "say which with --metric accuracy:y"),
        ({"y": np.zeros((6, 4, 3))}, np.zeros((6, 4), int), "use --metric accuracy for the share"),
    ],
)
def test_where_no_default_fits_the_metric_is_asked_for(outputs, targets, message):
    with pytest.raises(MetricError, match=message):
        resolve(None, outputs, targets)


def test_an_output_can_be_named():
    metric = resolve("accuracy:z", {"y": CLASSES, "z": CLASSES[:, ::-1]}, TARGET)
    assert metric.describe()["output"] == "z"
    with pytest.raises(MetricError, match="the model has no output 'x'; it has 'y', 'z'"):
        resolve("agreement:x", {"y": CLASSES, "z": CLASSES})
    with pytest.raises(MetricError, match=r"2 outputs have the shape .* agreement:OUTPUT"):
        resolve("agreement", {"y": CLASSES, "z": CLASSES})
    with pytest.raises(MetricError, match="closeness looks at all outputs"):
        resolve("closeness:y", {"y": CLASSES})


def test_tokens_are_bounded_when_asked_for():
    tokens = {"y": np.zeros((6, 4, 3), np.float32)}
    assert resolve("accuracy", tokens, np.zeros((6, 4), int)).kind == "bounded"


@pytest.mark.parametrize(
    ("name", "targets", "message"),
    [
        (
            "f1",
            TARGET,
            "there is no metric called 'f1'; use accuracy, agreement, closeness, cosine",
        ),
        ("accuracy", None, "accuracy needs targets, and the data have none; add an array 'target'"),
        ("accuracy", TARGET / 2, r"needs integer targets \[n\] or \[n, T\], not float64\[6\]"),
    ],
)
def test_what_cannot_be_is_told(name, targets, message):
    with pytest.raises(MetricError, match=message):
        resolve(name, {"y": CLASSES}, targets)


def test_code_needs_trust(tmp_path):
    (tmp_path / "score.py").write_text("def f(outputs, target): return [1.0] * 6\n")
    with pytest.raises(TrustError, match=r"score\.py:f' is code"):
        resolve(f"{tmp_path}/score.py:f", {"y": CLASSES})


def test_what_a_default_passes_over_is_told():
    pictures = {"y": np.zeros((6, 64), np.float32)}
    told = metrics.caveat(resolve(None, pictures), pictures)
    assert "'y' is taken for the scores of 64 classes" in told and "closeness" in told
    two = {"y": CLASSES, "risk": CLASSES[:, :1]}
    told = metrics.caveat(resolve(None, two, TARGET), two)
    assert told.endswith("'y' alone: nothing is claimed about 'risk'")
    assert not metrics.caveat(resolve(None, {"y": CLASSES}, TARGET), {"y": CLASSES})
    assert not metrics.caveat(resolve(None, two), two)  # closeness looks at all

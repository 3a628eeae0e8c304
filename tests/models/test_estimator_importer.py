"""Estimators of scikit-learn, LightGBM and XGBoost, converted and held against themselves."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from strop import engines
from strop.errors import ModelError, TrustError
from strop.measure import describe
from strop.models import Model, load
from strop.models.estimator_importer import is_estimator
from strop.models.runner import Runner
from strop.records import Target

pytest.importorskip("skl2onnx", reason="needs the extra sklearn")
sklearn = pytest.importorskip("sklearn", reason="needs the extra sklearn")
pytestmark = pytest.mark.filterwarnings("ignore")  # of converters, about their own dependencies


@pytest.fixture(scope="module")
def iris():
    from sklearn.datasets import load_iris

    x, y = load_iris(return_X_y=True)
    return x.astype(np.float32), y


def answers(model: Model, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    import onnx

    return Runner(onnx.load(model.forms["onnx"])).run(inputs)


def test_a_pipeline_answers_as_it_did(iris, tmp_path):
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x, y = iris
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)).fit(x, y)
    model = load(pipeline, workdir=tmp_path / "model", examples={"features": x})
    assert model.signature.input_names == ("features",)
    assert model.signature.output_names == ("label", "probabilities")
    assert model.meta["original_format"] == "scikit-learn"
    found = answers(model, {"features": x})
    np.testing.assert_array_equal(found["label"], pipeline.predict(x))
    np.testing.assert_allclose(found["probabilities"], pipeline.predict_proba(x), atol=1e-5)


def test_trees_run_on_onnx_runtime_and_openvino_says_why_it_cannot(iris, tmp_path):
    from sklearn.ensemble import RandomForestRegressor

    x, y = iris
    forest = RandomForestRegressor(5, random_state=0).fit(x, y)
    model = load(forest, workdir=tmp_path / "model", examples={"x": x})
    np.testing.assert_allclose(
        answers(model, {"x": x})["variable"][:, 0], forest.predict(x), rtol=1e-4, atol=1e-4
    )
    target = Target(machine=describe())
    assert engines.get("onnxruntime").applies(model, target)
    if engines.get("openvino").available():
        refusal = engines.get("openvino").applies(model, target)
        assert not refusal
        assert "ai.onnx.ml::TreeEnsembleRegressor" in refusal.reason


@pytest.mark.parametrize("package", ["lightgbm", "xgboost"])
def test_boosted_trees_answer_as_they_did(iris, tmp_path, package):
    booster = pytest.importorskip(package)
    pytest.importorskip("onnxmltools", reason="needs the extra sklearn")
    x, y = iris
    kind, more = {
        "lightgbm": ("LGBMClassifier", {"verbose": -1}),
        "xgboost": ("XGBClassifier", {}),
    }[package]
    estimator = getattr(booster, kind)(n_estimators=5, **more).fit(x, y)
    model = load(estimator, workdir=tmp_path / "model", examples={"x": x})
    assert model.meta["original_format"] == package
    found = answers(model, {"x": x})
    np.testing.assert_array_equal(found["label"], estimator.predict(x))
    np.testing.assert_allclose(found["probabilities"], estimator.predict_proba(x), atol=1e-4)


def test_a_table_goes_in_column_by_column(tmp_path):
    pandas = pytest.importorskip("pandas")
    from sklearn.compose import ColumnTransformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    random = np.random.default_rng(0)
    age = random.normal(40, 10, 80).astype(np.float32)
    town = random.choice(["Bern", "Graz", "Kiel"], 80)
    table = pandas.DataFrame({"age": age, "town": town})
    columns = ColumnTransformer(
        [("scaled", StandardScaler(), ["age"]), ("coded", OneHotEncoder(), ["town"])]
    )
    pipeline = make_pipeline(columns, LogisticRegression()).fit(table, age > 40)
    model = load(pipeline, workdir=tmp_path / "model", examples={"age": age, "town": town})
    assert [str(spec) for spec in model.signature.inputs] == [
        "age: float32[?, 1]",
        "town: str[?, 1]",
    ]
    found = answers(model, {"age": age[:, None], "town": town[:, None].astype(object)})
    np.testing.assert_allclose(found["probabilities"], pipeline.predict_proba(table), atol=1e-5)


def test_classes_that_are_no_column_numbers_are_told(iris, tmp_path):
    from sklearn.tree import DecisionTreeClassifier

    x, y = iris
    tree = DecisionTreeClassifier(max_depth=2).fit(x, y + 1)
    model = load(tree, workdir=tmp_path / "model", examples={"x": x})
    assert model.meta["notes"] == ["the columns of 'probabilities' stand for the classes 1, 2, 3"]


def test_a_graph_that_answers_otherwise_is_refused(tmp_path):
    """Far from zero float32 is too coarse for what float64 tells apart."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x = 1e7 + np.random.default_rng(0).normal(size=(64, 1)) / 10
    pipeline = make_pipeline(StandardScaler(), LogisticRegression()).fit(x, x[:, 0] > 1e7)
    with pytest.raises(ModelError, match=r"answers otherwise than the estimator on \d+ of 64"):
        load(pipeline, workdir=tmp_path / "model", examples={"x": x})


@pytest.mark.parametrize(
    ("examples", "said"),
    [
        ({"x": np.zeros((3, 5), np.float32)}, r"takes 4 features; the data hold x: float32\[5\]"),
        ({"x": np.zeros((3, 4), np.complex64)}, "takes no complex64"),
    ],
)
def test_examples_that_do_not_fit_are_refused(iris, tmp_path, examples, said):
    from sklearn.linear_model import Ridge

    with pytest.raises(ModelError, match=said):
        load(Ridge().fit(*iris), workdir=tmp_path / "model", examples=examples)


def test_an_estimator_without_a_converter_ends_in_one_line(iris, tmp_path):
    from sklearn.neighbors import NearestCentroid

    with pytest.raises(ModelError, match="NearestCentroid cannot be converted") as caught:
        load(NearestCentroid().fit(*iris), workdir=tmp_path / "model", examples={"x": iris[0]})
    assert "\n" not in str(caught.value)


def test_a_pickle_is_refused_and_a_function_that_opens_it_is_not(iris, tmp_path):
    from sklearn.linear_model import LogisticRegression

    x, y = iris
    estimator = LogisticRegression(max_iter=500).fit(x, y)
    path: Path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps(estimator))
    with pytest.raises(ModelError, match=r"'model\.pkl' is a pickle.*file\.py:callable"):
        load(path, workdir=tmp_path / "model", trust=True)
    code = "import pickle, pathlib\n\n\ndef build():\n"
    code += "    return pickle.loads(pathlib.Path(__file__).with_name('model.pkl').read_bytes())\n"
    (tmp_path / "net.py").write_text(code)
    with pytest.raises(TrustError, match="--trust"):
        load(f"{tmp_path}/net.py:build", workdir=tmp_path / "model")
    model = load(
        f"{tmp_path}/net.py:build", workdir=tmp_path / "model", examples={"x": x}, trust=True
    )
    np.testing.assert_array_equal(answers(model, {"x": x})["label"], estimator.predict(x))


def test_several_answers_an_example_are_taken_as_they_are(tmp_path):
    from sklearn.ensemble import RandomForestClassifier

    x = np.random.default_rng(0).normal(size=(80, 3))
    targets = np.stack([x[:, 0] > 0, x[:, 1] > 0.5], axis=1).astype(int)
    forest = RandomForestClassifier(3, random_state=0).fit(x, targets)
    model = load(forest, workdir=tmp_path / "model", examples={"x": x[:8]})
    assert [spec.name for spec in model.signature.outputs] == ["label", "probabilities"]
    assert model.meta["notes"] == []


def test_one_feature_may_come_without_a_second_dimension(tmp_path):
    from sklearn.linear_model import LinearRegression

    x = np.arange(16.0)
    line = LinearRegression().fit(x[:, None], 2 * x)
    model = load(line, workdir=tmp_path / "model", examples={"x": x})
    assert str(model.signature.inputs[0]) == "x: float32[?, 1]"


def test_examples_that_the_estimator_refuses_end_in_one_line(tmp_path):
    from sklearn.linear_model import LinearRegression

    x = np.arange(16.0)[:, None]
    line = LinearRegression().fit(x, 2 * x)
    with pytest.raises(ModelError, match="LinearRegression fails on the examples") as caught:
        load(line, workdir=tmp_path / "model", examples={"x": np.where(x == 3, np.nan, x)})
    assert "\n" not in str(caught.value)


def test_what_is_an_estimator(iris):
    from sklearn.linear_model import Ridge

    assert is_estimator(Ridge())
    assert not is_estimator(Ridge)
    assert not is_estimator(iris[0])

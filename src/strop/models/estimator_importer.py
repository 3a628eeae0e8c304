"""scikit-learn estimators and gradient-boosted trees, converted to ONNX.

Converters: skl2onnx for scikit-learn and for pipelines of it, onnxmltools for LightGBM and XGBoost,
inside a pipeline or alone. What comes out are operators of the domain ``ai.onnx.ml``, which
computes in float32 where the estimator computes in float64: the graph is held against the estimator
on examples, and every answer that differs is told.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from strop.errors import MissingExtra, ModelError
from strop.models.graph import first_line
from strop.models.model import Model
from strop.models.onnx_importer import seal_onnx
from strop.models.runner import Runner
from strop.models.sample import Shapes

if TYPE_CHECKING:
    import onnx

_OPSET, _ML_OPSET = 18, 3
_BOOSTERS = ("lightgbm", "xgboost")
_MOST_CHANGED = 0.01
"""Share of examples whose class or value may change before a conversion counts as wrong."""
_CLOSE = 1e-3
_NUMBERS = {"f": np.float32, "i": np.int64, "u": np.int64, "b": np.int64}


def is_estimator(given: Any) -> bool:
    """Whether `given` is an estimator: something that scikit-learn, LightGBM or XGBoost made.

    >>> is_estimator({"weights": 1})
    False
    """
    if isinstance(given, type):
        return False
    roots = {kind.__module__.partition(".")[0] for kind in type(given).__mro__}
    return bool(roots & {"sklearn", *_BOOSTERS}) and callable(getattr(given, "predict", None))


def import_estimator(
    estimator: Any,
    workdir: Path,
    *,
    examples: Mapping[str, np.ndarray] | None = None,
    shapes: Shapes | None = None,
    emit: Callable[[str], None] = lambda line: None,
) -> Model:
    """The estimator as a sealed model with an onnx form.

    Inputs are called as the examples call them: one matrix, float32[n, features], or, for what was
    fitted on a table, a column each, [n, 1]. A classifier gives ``label`` and ``probabilities``, a
    regressor ``variable``.

    Parameters
    ----------
    examples
        The graph is held against the estimator on them; without any it is called ``X``.

    Raises
    ------
    ModelError
        When it is not fitted, has no converter, or its graph answers otherwise than it does.
    """
    if type(estimator).__name__ == "Booster":
        package = _package(estimator)
        raise ModelError(
            f"a Booster of {package} is not converted by itself",
            hint=f"give the estimator around it ({'LGBM' if package == 'lightgbm' else 'XGB'}"
            "Classifier or …Regressor)",
        )
    inputs = _inputs(estimator, examples)
    proto = _converted(estimator, inputs)
    meta: dict[str, Any] = {
        "original_format": "scikit-learn"
        if _package(estimator) == "sklearn"
        else _package(estimator),
        "class": type(estimator).__name__,
        "producer": f"{proto.producer_name} {proto.producer_version}".strip(),
    }
    notes = []
    classes = getattr(estimator, "classes_", None)
    # Where an example has several answers there is a list of arrays, and no one column a class.
    names = list(classes) if isinstance(classes, np.ndarray) and classes.ndim == 1 else []
    if names != list(range(len(names))):
        shown = ", ".join(map(str, names[:8]))
        notes.append(f"the columns of 'probabilities' stand for the classes {shown}")
    if examples is not None:
        notes += _compare(estimator, proto, inputs, examples)
    for line in notes:
        emit(line)
    return seal_onnx(
        proto,
        workdir,
        meta={**meta, "notes": notes},
        examples=examples,
        shapes=shapes,
        emit=emit,
    )


def _inputs(estimator: Any, examples: Mapping[str, np.ndarray] | None) -> dict[str, np.ndarray]:
    """What the estimator is converted with: arrays by name, float32 or int64 or text, of rank 2."""
    count = getattr(estimator, "n_features_in_", None)
    columns = getattr(estimator, "feature_names_in_", None)
    if examples is None:
        if count is None:
            raise ModelError(
                f"the {type(estimator).__name__} does not say how many features it takes",
                hint="fit it, and give data",
            )
        return {"X": np.zeros((2, int(count)), np.float32)}
    arrays = {}
    for name, values in examples.items():
        array = np.asarray(values)
        if array.dtype.kind in _NUMBERS:
            array = array.astype(_NUMBERS[array.dtype.kind])
        elif array.dtype.kind in "OUT":
            array = array.astype(str)
        else:
            raise ModelError(f"an estimator takes no {array.dtype.name} ('{name}')")
        arrays[name] = _matrix(array)
    wide = [name for name, array in arrays.items() if array.ndim == 2]
    if len(wide) == 1 and (count is None or arrays[wide[0]].shape[1] == count):
        array = arrays[wide[0]]
        if array.dtype == np.int64:  # scikit-learn computes in floats whatever it is given
            array = array.astype(np.float32)
        return {wide[0]: array}
    if columns is not None and set(map(str, columns)) <= set(wide):
        return {str(name): arrays[str(name)] for name in columns}
    wanted = f"the columns {', '.join(map(str, columns))}" if columns is not None else "one array"
    held = ", ".join(
        f"{name}: {array.dtype}{list(array.shape[1:])}" for name, array in arrays.items()
    )
    raise ModelError(
        f"the {type(estimator).__name__} takes {count or 'other'} features; the data hold {held}",
        hint=f"give {wanted} of examples by features",
    )


def _matrix(array: np.ndarray) -> np.ndarray:
    """One feature of each example is a column."""
    return array[:, None] if array.ndim == 1 else array


def _converted(estimator: Any, inputs: Mapping[str, np.ndarray]) -> onnx.ModelProto:
    try:
        from skl2onnx import to_onnx
    except ImportError as error:
        raise MissingExtra("skl2onnx", extra="sklearn") from error
    kinds = importlib.import_module("skl2onnx.common.data_types")
    by_kind = {"f": kinds.FloatTensorType, "i": kinds.Int64TensorType, "U": kinds.StringTensorType}
    types = [
        (name, by_kind[array.dtype.kind]([None, array.shape[1]])) for name, array in inputs.items()
    ]
    boosters = {_package(part) for part in _parts(estimator)} & set(_BOOSTERS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if boosters:
                _register(boosters)
            classifier = hasattr(estimator, "predict_proba")
            options = {id(estimator): {"zipmap": False}} if classifier else None
            proto: onnx.ModelProto = to_onnx(
                estimator,
                initial_types=types,
                target_opset={"": _OPSET, "ai.onnx.ml": _ML_OPSET},
                options=options,
            )
            return proto
    except MissingExtra:
        raise
    except Exception as error:  # converters raise anything
        raise ModelError(
            f"the {type(estimator).__name__} cannot be converted to ONNX: {first_line(error)}",
            hint="docs/guide-models.md lists what can; a part without a converter has to be "
            "computed before, or exported by hand",
        ) from error


def _register(boosters: set[str]) -> None:
    """Tell skl2onnx of the converters that onnxmltools has."""
    try:
        import onnxmltools  # noqa: F401
    except ImportError as error:
        raise MissingExtra("onnxmltools", extra="sklearn") from error
    from skl2onnx import update_registered_converter

    shapes = importlib.import_module("skl2onnx.common.shape_calculator")
    for package in boosters:
        module = {"lightgbm": "LightGbm", "xgboost": "XGBoost"}[package]
        place = f"onnxmltools.convert.{package}.operator_converters.{module}"
        convert = getattr(importlib.import_module(place), f"convert_{package}")
        prefix = {"lightgbm": "LGBM", "xgboost": "XGB"}[package]
        for kind in ("Classifier", "Regressor"):
            estimator = getattr(sys.modules[package], prefix + kind)
            options = {"nocl": [True, False], "zipmap": [True, False, "columns"]}
            update_registered_converter(
                estimator,
                module + prefix + kind,
                getattr(shapes, f"calculate_linear_{kind.lower()}_output_shapes"),
                convert if kind == "Classifier" else _whole(convert),
                options=options if kind == "Classifier" else None,
            )


def _whole(convert: Callable[..., None]) -> Callable[..., None]:
    """A regressor's converter, told not to split its trees, as it asks of its caller."""

    def whole(scope: Any, operator: Any, container: Any) -> None:
        operator.split = None
        convert(scope, operator, container)

    return whole


def _compare(
    estimator: Any,
    proto: onnx.ModelProto,
    inputs: Mapping[str, np.ndarray],
    examples: Mapping[str, np.ndarray],
) -> list[str]:
    """Remarks on where the graph answers otherwise than the estimator.

    The estimator gets the examples as they came, in float64 where they are. ModelError when the
    answers differ too often.
    """
    outputs = Runner(proto).run(dict(inputs))
    given: Any = {name: _matrix(np.asarray(examples[name])) for name in inputs}
    given = _table(given) if len(inputs) > 1 else next(iter(given.values()))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # scikit-learn misses the names that it was fitted with
            expected = np.asarray(estimator.predict(given))
    except Exception as error:  # estimators raise anything
        raise ModelError(
            f"the {type(estimator).__name__} fails on the examples: {first_line(error)}",
            hint="give examples like those that it was fitted on",
        ) from error
    found = next(iter(outputs.values()))
    if found.size != expected.size:
        raise ModelError(
            f"the ONNX graph of the {type(estimator).__name__} gives {list(found.shape)} where the "
            f"estimator gives {list(expected.shape)}",
            hint="give an estimator with one answer an example",
        )
    found = found.reshape(expected.shape)
    if expected.dtype.kind == "f" and found.dtype.kind == "f":
        scale = np.maximum(np.abs(expected), np.abs(expected).mean() + 1e-12)
        differs = np.abs(found - expected) > _CLOSE * scale
    else:
        differs = found.astype(expected.dtype) != expected
    changed = int(differs.reshape(len(differs), -1).any(axis=1).sum())
    if changed > _MOST_CHANGED * len(differs):
        raise ModelError(
            f"the ONNX graph of the {type(estimator).__name__} answers otherwise than the "
            f"estimator on {changed} of {len(differs)} examples",
            hint="float32 may be too coarse for it: trees need no scaler before them, other kinds "
            "may need one",
        )
    if not changed:
        return []
    return [f"converted, it answers otherwise on {changed} of {len(differs)} examples (float32)"]


def _table(columns: Mapping[str, np.ndarray]) -> Any:
    """The columns as the table that the estimator was fitted on."""
    try:
        import pandas
    except ImportError as error:
        raise MissingExtra("pandas", extra="notebook") from error
    return pandas.DataFrame({name: array.reshape(-1) for name, array in columns.items()})


def _parts(estimator: Any) -> Iterator[Any]:
    """The estimator and all those that it is made of."""
    yield estimator
    parameters = estimator.get_params(deep=True) if hasattr(estimator, "get_params") else {}
    yield from (value for value in parameters.values() if is_estimator(value))


def _package(estimator: Any) -> str:
    """The package that an estimator comes from; a class of the user's own counts as its base."""
    roots = [kind.__module__.partition(".")[0] for kind in type(estimator).__mro__]
    return next((root for root in roots if root in _BOOSTERS), "sklearn")

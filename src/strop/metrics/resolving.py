"""Which metric judges: the one named, or the default that outputs and targets imply."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from strop import plugins
from strop.errors import MetricError
from strop.metrics._base import Metric, Outputs, class_outputs, is_real, summary
from strop.metrics.user import UserMetric
from strop.models.user_code import is_user_code, load_function


def resolve(
    name: str | None,
    *,
    outputs: Outputs,
    has_target: bool,
    targets: np.ndarray | None,
    trust: bool = False,
) -> Metric:
    """The metric for a model and its data.

    By default: integer targets [n] and one output float[n, C] → ``accuracy``; no targets and one
    such output alone → ``agreement``; no targets otherwise → ``closeness``.

    Parameters
    ----------
    name
        A registered name, ``NAME:OUTPUT`` to say which output it looks at, ``file.py:fn``, or
        None for the default.
    outputs
        The original's outputs for a few examples, by name.
    has_target, targets
        Whether the data have targets, and those of these examples.
    trust
        Whether ``file.py:fn`` may run.

    Raises
    ------
    MetricError
        When no default fits, or the metric cannot score these outputs.
    TrustError
        When the metric is code and `trust` is False.
    """
    given = targets if has_target else None
    if name is None:
        return _default(outputs, given)
    if is_user_code(name):
        return UserMetric.probe(load_function(name, trust=trust), outputs, given)
    plain, _, output = name.partition(":")
    known = plugins.names("metrics")
    if plain not in known:
        raise MetricError(
            f"there is no metric called '{plain}'", hint=f"use {', '.join(known)} or file.py:fn"
        )
    made: Metric = plugins.find("metrics", plain).for_outputs(outputs, given, output or None)
    return made


def caveat(metric: Metric, outputs: Outputs) -> str:
    """What a metric that nobody named passes over or takes for granted; empty where it is plain.

    Examples
    --------
    >>> outputs = {"y": np.zeros((2, 10)), "z": np.zeros((2, 1))}
    >>> chosen = resolve(None, outputs=outputs, has_target=True, targets=np.array([0, 1]))
    >>> caveat(chosen, outputs)
    "accuracy looks at the output 'y' alone: nothing is claimed about 'z'"
    """
    looked_at = getattr(metric, "output", None)
    if looked_at is None:
        return ""
    others = ", ".join(f"'{name}'" for name in outputs if name != looked_at)
    if others:
        return (
            f"{metric.name} looks at the output '{looked_at}' alone: nothing is claimed about "
            f"{others}"
        )
    if metric.name == "agreement":
        classes = outputs[looked_at].shape[1]
        return (
            f"without targets, '{looked_at}' is taken for the scores of {classes} classes, of "
            "which the highest has to stay: where it is anything else, as a picture or an "
            "embedding, give --metric closeness or cosine"
        )
    return ""


def reopen(description: Mapping[str, Any]) -> Metric:
    """The metric that `Metric.describe` described, in this or another process."""
    values = dict(description)
    if "function" in values:
        return UserMetric.reopened(values)
    made: Metric = plugins.find("metrics", values.pop("name"))(**values)
    return made


def _default(outputs: Outputs, targets: np.ndarray | None) -> Metric:
    classes = class_outputs(outputs)
    if targets is None:
        alone = len(outputs) == 1 and len(classes) == 1
        name = "agreement" if alone else "closeness"
        found: Metric = plugins.find("metrics", name).for_outputs(outputs, None, None)
        return found
    if targets.ndim == 1 and targets.dtype.kind in "iu" and len(classes) == 1:
        judged: Metric = plugins.find("metrics", "accuracy").for_outputs(
            {classes[0]: outputs[classes[0]]}, targets, None
        )
        return judged
    kind = "text" if targets.dtype.kind in "OUT" else targets.dtype.name
    dims = ", ".join(["n", *map(str, targets.shape[1:])])
    several = " (two outputs and more look like class scores)" if len(classes) > 1 else ""
    raise MetricError(
        f"no default metric fits targets {kind}[{dims}] and outputs {summary(outputs)}{several}",
        hint=_advice(classes, outputs, targets),
    )


def _advice(classes: list[str], outputs: Outputs, targets: np.ndarray) -> str:
    if len(classes) > 1 and targets.ndim == 1 and targets.dtype.kind in "iu":
        return f"say which with --metric accuracy:{classes[0]}, or give --metric file.py:fn"
    if (better := _as_classes(classes, outputs, targets)) is not None:
        return f"{better}, or give --metric file.py:fn"
    tokens = [name for name, it in outputs.items() if is_real(it) and it.ndim == targets.ndim + 1]
    if targets.ndim == 2 and targets.dtype.kind in "iu" and tokens:
        return "use --metric accuracy for the share of right tokens, or --metric file.py:fn"
    return "give --metric file.py:fn, where fn(outputs, target) returns a score an example"


def _as_classes(classes: list[str], outputs: Outputs, targets: np.ndarray) -> str | None:
    """How targets that mean classes become the class numbers that accuracy takes; None if not."""
    if len(classes) != 1:
        return None
    if targets.dtype.kind in "OUT":
        return "number the classes as the model does: int64[n]" if targets.ndim == 1 else None
    if targets.dtype.kind not in "biuf":
        return None
    if targets.ndim == 2 and targets.shape[1] == outputs[classes[0]].shape[1]:
        one_hot = np.isin(targets, (0, 1)).all() and (targets.sum(axis=1) == 1).all()
        return "give class numbers: target.argmax(axis=1)" if one_hot else None
    if targets.ndim > 2 or (targets.ndim == 2 and targets.shape[1] != 1):
        return None
    if not (targets == np.floor(targets)).all():
        return None
    flat = "[:, 0]" if targets.ndim == 2 else ""
    cast = "" if targets.dtype.kind in "iu" else '.astype("int64")'
    return f"give class numbers int64[n]: target{flat}{cast}"

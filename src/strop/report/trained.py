"""What the steps that train recorded of it, read from a bundle's lineage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from strop.records import Step
from strop.report.record import Training

_STUDENTS = {
    "narrow": "a copy with {} of every layer's channels",
    "shallow": "a copy with {} of its residual blocks",
}


def trainings(technique: str, meta: Mapping[str, Any]) -> tuple[Training, ...]:
    """The runs that a technique left in a model's ``meta``; none where it does not train.

    Examples
    --------
    >>> found = trainings("qat", {"qat": {"steps": 80, "epochs": 0.5, "stopped": "early"}})
    >>> found[0].steps, found[0].stopped, trainings("fp16", {})
    (80, 'early', ())
    """
    told = _mapping(meta.get(technique))
    recovery = told.get("recovery")
    if isinstance(recovery, list):
        runs = [_mapping(run) for run in recovery]
        count = len(runs)
        return tuple(
            _training(run, f"recovery {number} of {count}" if count > 1 else "recovery")
            for number, run in enumerate(runs, 1)
        )
    return (_training(told, ""),) if "epochs" in told else ()


def left_by(steps: Sequence[Step], count: int, meta: Mapping[str, Any]) -> Mapping[str, Any]:
    """`meta` as the first `count` of a recipe's `steps` left it.

    A technique that is applied again keeps what it said before under ``earlier``.

    Examples
    --------
    >>> steps = [Step(technique="distil"), Step(technique="distil"), Step(technique="fp16")]
    >>> left_by(steps, 1, {"distil": {"steps": 9, "earlier": {"steps": 5}}})
    {'distil': {'steps': 5}}
    """
    name = steps[count - 1].technique
    for later in steps[count:]:
        if later.technique == name:
            meta = {**meta, name: _mapping(meta.get(name)).get("earlier")}
    return meta


def parameters(technique: str, meta: Mapping[str, Any]) -> tuple[int, int] | None:
    """Parameters of the network before and after a technique, where it tells."""
    told = _mapping(meta.get(technique))
    before, after = (_whole(told.get(f"parameters_{when}")) for when in ("before", "after"))
    return None if before is None or after is None else (before, after)


def student(params: Mapping[str, Any]) -> str:
    """A distillation's student in words; empty for other techniques.

    Examples
    --------
    >>> student({"student": "narrow-0.25"})
    "a copy with 25% of every layer's channels"
    >>> student({"student": "same"}), student({})
    ('the network that the step before left', '')
    """
    kind = str(params.get("student", ""))
    if kind == "same":
        return "the network that the step before left"
    name, _, share = kind.partition("-")
    try:
        return _STUDENTS[name].format(f"{float(share):.0%}")
    except (KeyError, ValueError):
        return f"the network given as {kind}" if kind else ""


def _training(told: Mapping[str, Any], part: str) -> Training:
    judged, trained = _mapping(told.get("judged")), _mapping(told.get("trained"))
    warnings = told.get("warnings")
    return Training(
        part=part,
        steps=_whole(told.get("steps")),
        epochs=_number(told.get("epochs")),
        learning_rate=_number(told.get("lr")),
        precision=_text(told.get("precision")),
        loss=_number(told.get("loss")),
        quality=_text(told.get("quality")),
        before=_number(told.get("before")),
        best=_number(told.get("best")),
        judged_on=_text(judged.get("on")),
        judged=_whole(judged.get("examples")),
        examples=_whole(trained.get("on")),
        of=_whole(trained.get("of")),
        chosen=_text(trained.get("chosen")),
        stopped=_text(told.get("stopped")),
        warnings=tuple(map(str, warnings)) if isinstance(warnings, Sequence) else (),
    )


# A bundle may come from another version, or from anybody: what is of another type is not known.
def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
